//! The guest's disk as a process: against hostile clients, kills, and the tools that others use.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "what was skipped or measured, shown by --nocapture")]

mod client;
mod hostile;
mod kills;
mod layers;
mod mending;
mod support;
mod syncs;
mod tools;
