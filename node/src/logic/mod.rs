//! The decisions of a node, as pure logic: events and the time go in, actions come out.
//!
//! Nothing here does I/O, reads a clock or makes its own randomness, so a whole cluster runs in one
//! process from a seed. The daemon turns actions into I/O and I/O into events.

mod action;
mod channel;
mod count;
mod durable;
mod election;
mod event;
mod failures;
mod history;
mod machine;
mod pace;
mod state;
mod succession;
mod timing;
mod view;

#[cfg(test)]
mod channel_tests;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod simulated_cluster;

pub use action::Action;
pub use channel::{Channel, ChannelOutput, ChannelView, SnapshotToken};
pub use election::{ElectionRule, Stand, StaticPriority};
pub use event::Event;
pub use history::{implied_durable, newest_of_lineage};
pub use machine::{Machine, MachineConfig};
pub use pace::AskedPace;
pub use state::{Role, State};
pub use timing::Timing;
pub use view::Obstacle;
