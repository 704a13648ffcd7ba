//! Logic: nobody who is alive is taken for dead.

use std::collections::BTreeMap;

use super::{Checker, Occasion};
use crate::sim::NodeNumber;
use crate::sim::world::World;

/// The share of lost messages up to which this holds.
const LOSS_MAX: f64 = 0.05;
/// How long both must have been up and undisturbed: what happened before may still be told.
const CALM_MS: u64 = 20_000;

/// **With at most 5 % of messages lost nobody takes a node for dead that is up and can be reached by others**, even if
/// nothing gets from one to the other. Where there was a partition, or one of the two stood still or started again,
/// it may be told a while longer.
#[derive(Default)]
pub(super) struct Alarms {
    disturbed_ms: BTreeMap<NodeNumber, u64>,
}

impl Checker for Alarms {
    fn name(&self) -> &'static str {
        "alarms"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        let now_ms = world.now_ms;
        match occasion {
            Occasion::Crashed(node) | Occasion::Started(node) | Occasion::Lost(node) => {
                self.disturbed_ms.insert(*node, now_ms);
            }
            Occasion::Stalled(node, until_ms) => {
                self.disturbed_ms.insert(*node, *until_ms);
            }
            Occasion::Told(observer, subject, false) => {
                let is_calm = |node| {
                    let up = world.nodes.get(node).is_some_and(|node| node.keeper.is_some());
                    up && self.disturbed_ms.get(node).is_none_or(|at_ms| at_ms + CALM_MS < now_ms)
                };
                let is_cut =
                    !world.net.island.is_empty() || world.cut_ms.is_some_and(|at_ms| at_ms + 60_000 > now_ms);
                if is_calm(observer) && is_calm(subject) && !is_cut && world.net.link.loss <= LOSS_MAX {
                    return Err(format!("node {observer} takes node {subject} for dead"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
