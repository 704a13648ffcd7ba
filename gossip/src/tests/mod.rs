//! Whole clusters in one process: real sockets on the loopback device, real stores.

mod forwarding;
mod gathering;
mod harness;
mod hostility;
mod keeping;
mod membership;
mod probing;
mod rebuilding;
mod spreading;
mod starting;
mod trust;
