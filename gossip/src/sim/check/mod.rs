//! Logic: what must hold in a simulation. Each checker is a type of its own and is asked whenever something happens.

mod alarms;
mod bounds;
mod convergence;
mod cost;
mod coverage;
mod durability;
mod egress;
mod lines;
mod liveness;

use sustain_proto::SnapshotId;

use super::NodeNumber;
use super::reign::Side;
use super::scenario::Scenario;
use super::world::World;
use crate::keeper::Part;

/// Something that must hold does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The checker that found it.
    pub checker: &'static str,
    /// When, in virtual time.
    pub at_ms: u64,
    /// What it is.
    pub what: String,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// A node has handled an event.
    Handled(NodeNumber),
    /// Bytes of a part came to a node.
    Fetched(NodeNumber, Part, u64),
    /// A node has begun to send bytes of a part.
    Served(NodeNumber, Part, u64),
    /// A node has synced something.
    Synced(NodeNumber),
    /// A node has claimed something else than before.
    Claimed(NodeNumber),
    /// A synced part was dropped.
    Dropped(Part),
    /// A server says something else of this snapshot.
    Level(Side, SnapshotId),
    /// A node has forgotten a line.
    Forgotten(NodeNumber),
    /// A node is said to have sent what can't be true.
    Accused(NodeNumber, &'static str),
    /// The server has published a catalog.
    Published,
    /// The first node takes the second one for alive, or for dead.
    Told(NodeNumber, NodeNumber, bool),
    /// A node has started.
    Started(NodeNumber),
    /// A node stands still until this time.
    Stalled(NodeNumber, u64),
    /// A node has crashed.
    Crashed(NodeNumber),
    /// A node is lost with its disk.
    Lost(NodeNumber),
    /// Something else went wrong, or ended to do so.
    Fault,
    /// A second has gone by.
    Second,
    /// Faults have ended, and there was time for everything to come right.
    Healed,
    /// The run ends.
    Ended,
}

/// Something that must hold.
pub(super) trait Checker: Send {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Looks at what has happened. An error says what does not hold.
    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String>;
}

/// All of them.
pub(super) struct Checks {
    all: Vec<Box<dyn Checker>>,
}

impl Checks {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            all: vec![
                Box::new(durability::Durability),
                Box::new(coverage::Coverage::new(scenario)),
                Box::new(cost::Cost::default()),
                Box::new(convergence::Convergence::default()),
                Box::new(alarms::Alarms::default()),
                Box::new(egress::Egress::default()),
                Box::new(bounds::Bounds),
                Box::new(lines::Lines::default()),
                Box::new(liveness::Liveness),
            ],
        }
    }

    pub(super) fn look(&mut self, world: &World, occasion: &Occasion) -> Vec<Violation> {
        let mut found = Vec::new();
        for checker in &mut self.all {
            if let Err(what) = checker.look(world, occasion) {
                found.push(Violation { checker: checker.name(), at_ms: world.now_ms, what });
            }
        }
        found
    }
}

/// The names of all checkers.
#[must_use]
pub fn names() -> [&'static str; 9] {
    ["durability", "coverage", "cost", "convergence", "alarms", "egress", "bounds", "lines", "liveness"]
}
