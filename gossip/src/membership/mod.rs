//! Who belongs to the cluster, and who of them is alive.
//!
//! The *roster* says who belongs: a set of signed facts that nodes exchange until all have the same
//! (`facts`, `roster`). *SWIM* says who is alive: nodes probe one another at random, directly and through others, and
//! tell what they find (`swim`). The *circle* is whom the overlay is made of: all members but those that have been
//! dead for long (`circle`). All of it is logic.

mod circle;
mod facts;
mod life;
mod packet;
mod roster;
mod roster_error;
#[cfg(test)]
mod roster_tests;
mod statement;
mod swim;
mod swim_config;
#[cfg(test)]
mod swim_tests;
mod trust;
mod waiting;

#[cfg(test)]
pub(crate) use {life::Life, packet::Packet, statement::sign};

pub use circle::Circle;
pub(crate) use packet::{Fault, fault};
pub(crate) use waiting::Waiting;

pub use facts::{Digest, Facts, Outline};
pub use roster::{Merged, RemovedNode, Roster};
pub use roster_error::RosterError;
pub use statement::StatementError;
pub use swim::{Health, Swim, SwimAction};
pub use swim_config::{PACKET_BYTES_MAX, SwimConfig};
