//! Logic: when faults have ended, everything comes right.

use super::{Checker, Occasion};
use crate::sim::world::World;

/// **Some time after the last fault every node has synced all that it is to hold and nothing else, all know the same
/// catalog, and every snapshot is durable.**
pub(super) struct Liveness;

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        if *occasion != Occasion::Healed {
            return Ok(());
        }
        let server = world.nodes.get(&world.main.server).and_then(|node| node.keeper.as_ref());
        let Some(server) = server else { return Err("no server runs".to_owned()) };
        let catalog = server.catalog(&world.service_name);
        for (number, node) in &world.nodes {
            let Some(keeper) = node.keeper.as_ref() else {
                return Err(format!("node {number} does not run"));
            };
            if keeper.catalog(&world.service_name) != catalog {
                let [theirs, ours] = [keeper, server].map(|keeper| {
                    let lines = keeper.catalogs(&world.service_name);
                    lines.map(|it| format!("{} {}", it.version.term, it.version.number)).collect::<Vec<_>>()
                });
                return Err(format!(
                    "node {number} knows {theirs:?}, the server (node {}) {ours:?}",
                    world.main.server
                ));
            }
            let lines = keeper.catalogs(&world.service_name).count();
            if lines != 1 {
                return Err(format!("node {number} keeps {lines} lines"));
            }
            let lacking = keeper.unfinished();
            if !lacking.is_empty() {
                return Err(format!("node {number} has not finished: {lacking}"));
            }
        }
        let Some(catalog) = catalog else { return Err("nothing is published".to_owned()) };
        let others = world.nodes.len() - 1;
        let liars = world.nodes.values().filter(|node| node.is_liar).count();
        for entry in &catalog.entries {
            let needed = catalog.needed_by(entry).values().map(|pack| pack.needed()).max().unwrap_or(1);
            let level = world.main.levels.get(&entry.id).copied().flatten();
            let wanted = world.scenario.tolerance.min((others - liars).saturating_sub(needed));
            if level < Some(wanted) {
                return Err(format!("number {} survives {level:?} losses, {wanted} are wanted", entry.added));
            }
        }
        Ok(())
    }
}
