//! Whole clusters in one process: real sockets on the loopback device, real stores.

mod auditing;
mod forwarding;
mod gathering;
mod harness;
mod hostility;
mod keeping;
mod liars;
mod membership;
mod misconduct;
mod probing;
mod rebuilding;
mod spreading;
mod starting;
mod statements;
mod trust;
mod versions;
