//! Tests of the store through its public interface, in one program so that they link once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod changes;
mod common;
mod corruption;
mod crash;
mod following;
mod keeping;
mod index_memory;
mod memory;
mod partial;
mod property;
mod rebase;
mod recent;
mod replication;
mod round_trip;
mod sealed;
mod simulated_disk;
mod space;
mod threads;
