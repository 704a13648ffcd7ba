//! Logic: a cluster of keepers in one process, in virtual time. One seed decides everything that happens.
//!
//! ```text
//!  Scenario ─▶ World: nodes (Keeper, disk), network, service, faults ──▶ what happened ─▶ checkers ─▶ Outcome
//!                └──────────── queue of events, by time ◀─────────────┘
//! ```
//!
//! Everything that is gone through in order is in ordered maps, so that a seed replays a run to the last event.

mod acting;
mod alive;
mod check;
mod disk;
mod faults;
mod net;
mod nodes;
mod reign;
mod run;
mod scenario;
mod service;
pub(crate) mod stamp;
#[cfg(test)]
mod tests;
mod trace;
mod world;

/// Numbers the simulated nodes, in the order in which they joined.
pub type NodeNumber = u32;

pub use check::{Violation, names};
pub use faults::Mix;
pub use net::Link;
pub use run::{Outcome, run, run_mutant, run_traced};
pub use scenario::{Scenario, Size};
pub use service::Habits;
pub use world::Mutant;
