//! Every parser of bytes that come from a disk, a peer or a guest, as a function that takes any bytes: a *target*.
//!
//! `make fuzz` runs them under libFuzzer, which looks for inputs that reach new code. The tests here run them over the
//! committed corpus and thousands of its mutations, the same ones each time, in seconds.

mod mutate;
mod targets;

pub use mutate::Mutations;
pub use targets::{TARGETS, Target, swimmers};
