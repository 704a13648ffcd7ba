//! What proto promises, from outside: formats, limits, rejection, names, ancestry and the grid.
//!
//! One binary for all files, so that the crate links once.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod frames;
mod golden;
mod grid;
mod ids;
mod limits;
mod lineage;
mod names;
mod rejection;
mod round_trip;
mod strategies;
