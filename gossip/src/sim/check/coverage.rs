//! Logic: every neighbourhood can rebuild everything again soon after a loss.

use std::collections::BTreeSet;

use super::{Checker, Occasion};
use crate::keeper::{Catalog, Which};
use crate::overlay::{Members, Overlay};
use crate::sim::NodeNumber;
use crate::sim::scenario::Scenario;
use crate::sim::world::{Node, World};

/// Until moves are decided, and done: waits, and several moves one after the other.
const MOVES_MS: u64 = 25_000;
/// What was added in the last so many milliseconds may still be on its way.
const NEW_MS: u64 = 25_000;

/// **Some time after the last fault every node's closed neighbourhood holds at least k + f different fragments**, by
/// what is synced on disks: the time to detect a loss, the hold-off, and the time for moves and transfers.
pub(super) struct Coverage {
    within_ms: u64,
    since_ms: u64,
    published: Vec<(u64, u64)>,
    ticks: u64,
}

impl Coverage {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let within_ms = scenario.detection_ms.1 + scenario.hold_off_ms + MOVES_MS;
        Self { within_ms, since_ms: 0, published: Vec::new(), ticks: 0 }
    }

    /// The greatest number that has been published for long enough.
    fn old_number(&self, now_ms: u64) -> u64 {
        let old = self.published.iter().rev().find(|(_, at_ms)| at_ms + NEW_MS <= now_ms);
        old.map_or(0, |(number, _)| *number)
    }
}

impl Checker for Coverage {
    fn name(&self) -> &'static str {
        "coverage"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        match occasion {
            Occasion::Fault | Occasion::Crashed(_) | Occasion::Lost(_) => self.since_ms = world.now_ms,
            Occasion::Published => {
                let keeper = world.nodes.get(&world.main.server).and_then(|node| node.keeper.as_ref());
                let number = keeper.and_then(|keeper| keeper.catalog(&world.service_name));
                self.published.extend(number.map(|catalog| (catalog.version.number, world.now_ms)));
            }
            Occasion::Second => {
                self.ticks += 1;
                let is_due = self.since_ms + self.within_ms <= world.now_ms && world.net.is_whole();
                let is_turn = self.ticks % (1 + world.nodes.len() as u64 / 50) == 0;
                if is_due && is_turn && world.nodes.values().all(|node| node.keeper.is_some()) {
                    return covered(world, self.old_number(world.now_ms));
                }
            }
            Occasion::Healed => return covered(world, u64::MAX),
            _ => {}
        }
        Ok(())
    }
}

/// Whether every neighbourhood has what it is to have of all packs that were added up to a number.
fn covered(world: &World, number: u64) -> Result<(), String> {
    let server = world.nodes.get(&world.main.server).and_then(|node| node.keeper.as_ref());
    let Some(catalog) = server.and_then(|keeper| keeper.catalog(&world.service_name)) else { return Ok(()) };
    let packs: Vec<_> = catalog.packs().into_iter().filter(|pack| pack.added <= number).collect();
    let needed = packs.iter().map(|pack| pack.needed()).max().unwrap_or(1);
    if needed <= 1 {
        return Ok(());
    }
    let members: Members = world.nodes.values().map(|node| (node.id, node.label.clone())).collect();
    let overlay = Overlay::new(&members, world.scenario.degree);
    let held: std::collections::BTreeMap<_, _> = world
        .nodes
        .iter()
        .map(|(number, node)| (node.id, fragment_of(world, catalog, &packs, *number, node)))
        .collect();
    let liars: BTreeSet<_> = world.nodes.values().filter(|node| node.is_liar).map(|node| node.id).collect();
    for (number, node) in &world.nodes {
        let closed: Vec<_> = overlay.closed(node.id).collect();
        let distinct: BTreeSet<u8> =
            closed.iter().filter_map(|node| held.get(node).copied().flatten()).collect();
        let lying = closed.iter().filter(|node| liars.contains(*node)).count();
        let wanted = (needed + world.scenario.tolerance).min(closed.len());
        if distinct.len() + lying < wanted {
            let claims: Vec<_> = closed.iter().filter_map(|id| world.numbers.get(id)).collect();
            return Err(format!(
                "around node {number} there are {} fragments, {wanted} are wanted; its neighbourhood is {claims:?}",
                distinct.len()
            ));
        }
    }
    Ok(())
}

/// The fragment that a node can give of all these packs, from what is synced.
fn fragment_of(
    world: &World,
    catalog: &Catalog,
    packs: &[crate::keeper::Pack],
    number: NodeNumber,
    node: &Node,
) -> Option<u8> {
    let index = node.keeper.as_ref()?.claim().index?;
    if number == world.main.server || catalog.warm.contains(&node.id) && node.keeper.is_none() {
        return Some(index);
    }
    let disk = world.disks.get(number)?;
    let has = |pack: &crate::keeper::Pack| {
        let share = pack.share(index);
        disk.is_synced(&share) || (share.which != Which::Whole && disk.is_synced(&pack.whole()))
    };
    packs.iter().all(has).then_some(index)
}
