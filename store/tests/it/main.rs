//! Tests of the store through its public interface, in one program so that they link once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod changes;
mod changing_key;
mod common;
mod corruption;
mod crash;
mod crashing_property;
mod double_faults;
mod expected;
mod following;
mod following_keys;
mod format;
mod fragments;
mod fragments_crash;
mod full_disk;
mod index_memory;
mod keeping;
mod key_faults;
mod lasting;
mod memory;
mod partial;
mod power_cut;
mod processes;
mod processes_ending;
mod processes_killed;
mod property;
mod rebase;
mod receive_groups;
mod recent;
mod replication;
mod round_trip;
mod scrubbing;
mod sealed;
mod several_packs;
mod simulated_disk;
mod space;
mod strays;
mod threads;
mod world;
