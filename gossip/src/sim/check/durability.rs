//! Logic: what the server says that a snapshot survives, it survives.

use std::collections::BTreeSet;

use sustain_proto::SnapshotId;

use super::{Checker, Occasion};
use crate::sim::NodeNumber;
use crate::sim::reign::Side;
use crate::sim::world::World;

/// **A snapshot of which the server says that it survives f losses can be rebuilt after the loss of any f nodes.** It
/// is counted on the disks, by what is synced: as many nodes as f are taken away, those whose loss does most harm, the
/// server besides. Nodes that crashed keep their disks. Nodes that lie, and those that were lost with their disks while
/// the server can't know it yet, are among the f.
pub(super) struct Durability;

impl Checker for Durability {
    fn name(&self) -> &'static str {
        "durability"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        match occasion {
            Occasion::Level(side, id) => check(world, *side, |other| other == *id),
            Occasion::Dropped(_) | Occasion::Lost(_) | Occasion::Healed => {
                check(world, Side::Main, |_| true)?;
                check(world, Side::Rival, |_| true)
            }
            _ => Ok(()),
        }
    }
}

fn check(world: &World, side: Side, concerns: impl Fn(SnapshotId) -> bool) -> Result<(), String> {
    let Some(reign) = world.reign_of(side) else { return Ok(()) };
    let Some(catalog) = world.published(side) else { return Ok(()) };
    // Once they can hear each other, what only one of them lists goes when it is merged.
    if side == Side::Rival && reign.is_over {
        return Ok(());
    }
    let liars = world.nodes.values().filter(|node| node.is_liar).count();
    // Not known to be lost: the server has not been told.
    let told = world.nodes.get(&reign.server).map(|node| &node.told_dead);
    let unknown = world.lost_ms.keys().filter(|node| told.is_some_and(|told| !told.contains(*node))).count();
    let except: BTreeSet<NodeNumber> = BTreeSet::from([reign.server]);
    for entry in catalog.entries.iter().filter(|entry| concerns(entry.id)) {
        let Some(Some(level)) = reign.levels.get(&entry.id).copied() else { continue };
        let Some(losses) = level.checked_sub(liars + unknown) else { continue };
        for pack in catalog.needed_by(entry).values() {
            let deadly =
                world.disks.holders(&pack.id).map_or(0, |holders| holders.losses(pack.needed(), &except));
            if deadly <= losses {
                return Err(format!(
                    "number {} of node {} is said to survive {level} losses ({liars} liars, {unknown} lost unnoticed); \
                     {deadly} more make an end of pack {}",
                    entry.added,
                    reign.server,
                    pack.id.short(),
                ));
            }
        }
    }
    Ok(())
}
