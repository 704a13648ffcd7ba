//! A depot beside another node's: what comes, what counts, what a restart says.

mod cost;
mod crashes;
mod fragments;
mod whole;
mod world;

#[path = "../../../../store/tests/it/power_cut.rs"]
#[allow(dead_code)]
mod power_cut;
#[path = "../../../../store/tests/it/simulated_disk/mod.rs"]
#[allow(dead_code, unused_imports)]
mod simulated_disk;
