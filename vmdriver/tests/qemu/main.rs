//! Tests with a real QEMU and, where it matters, the real guest. Both have to be there: `make setup`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "measurements, shown by --nocapture")]

mod consistency;
mod disk;
mod early_client;
mod endings;
mod hanging;
mod images;
mod incompatible;
mod inside;
mod real_guest;
mod support;
mod versions;
