//! A node of sustain: the state machine of P2 (pure logic, in [`logic`]) and the daemon that wires it to
//! gossip, store and vmdriver.

pub mod admin;
pub mod clock;
pub mod config;
pub mod events;
pub mod limits;
pub mod log;
pub mod logic;
mod names;
pub mod operations;
pub mod upkeep;
pub mod verify;

mod changed_list;
mod daemon;
mod descriptors;
mod drivers;
mod failure;
mod follow;
mod handler;
mod holder;
mod joined;
mod plan;
mod retain;
mod run_folder;
mod scrub;
mod service;
mod watched;
mod woken;

pub use changed_list::{ChangedListError, parse_changed_list};
pub use daemon::{Daemon, DaemonError};
pub use drivers::{driver_of, spec_of};
pub use joined::{JoinedError, NewNode};
pub use plan::{ClusterPlan, NODES_MAX, PlanError, PlannedNode, PlannedService};
pub use scrub::ScrubStatus;
pub use service::{Problem, ServiceStatus};
pub use woken::Woken;
