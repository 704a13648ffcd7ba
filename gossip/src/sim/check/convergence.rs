//! Logic: news gets to everybody soon.

use super::{Checker, Occasion};
use crate::keeper::Version;
use crate::sim::reign::Side;
use crate::sim::world::World;

/// **A catalog is known to every node that can be reached within O(log n) rounds**: for each doubling of the nodes
/// one hop, of three messages, and some to spare; where messages get lost, some comparisons more.
#[derive(Default)]
pub(super) struct Convergence {
    /// Until when everybody is to know a catalog or a newer one, which, and since when.
    due: Vec<(u64, Version, u64)>,
}

impl Convergence {
    fn within_ms(world: &World) -> u64 {
        let link = &world.net.link;
        let hops = u64::from(world.nodes.len().max(2).ilog2()) + 4;
        let compare_ms = if link.loss > 0.0 { 5 * 3_000 } else { 0 };
        hops * 3 * (link.delay_ms + link.jitter_ms + 2) + compare_ms
    }
}

impl Checker for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        match occasion {
            Occasion::Published => {
                if let Some(catalog) = world.published(Side::Main) {
                    let until_ms = world.now_ms + Self::within_ms(world);
                    self.due.push((until_ms, catalog.version, world.now_ms));
                }
            }
            Occasion::Handled(_) | Occasion::Second => {
                while self.due.first().is_some_and(|(until_ms, ..)| *until_ms <= world.now_ms) {
                    let (_, version, since_ms) = self.due.remove(0);
                    // Whoever comes, goes or stands still knows what it knows.
                    if world.last_fault_ms + 30_000 < since_ms && world.net.is_whole() {
                        known(world, version, since_ms)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn known(world: &World, version: Version, since_ms: u64) -> Result<(), String> {
    for (node, keeper) in world.nodes.iter().filter_map(|(node, state)| Some((node, state.keeper.as_ref()?)))
    {
        let known = keeper.catalog(&world.service_name).map(|catalog| catalog.version);
        if known < Some(version) {
            return Err(format!(
                "node {node} knows catalog {known:?}; {version:?} was published at {since_ms} ms"
            ));
        }
    }
    Ok(())
}
