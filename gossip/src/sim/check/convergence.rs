//! Logic: news gets to everybody soon.

use super::{Checker, Occasion};
use crate::sim::world::World;

/// **A catalog is known to every node that can be reached within O(log n) rounds**: for each doubling of the nodes
/// one hop, of three messages, and some to spare; where messages get lost, some comparisons more.
#[derive(Default)]
pub(super) struct Convergence {
    /// The number of a catalog, and until when everybody is to know it or a newer one.
    due: Vec<(u64, u64, u64)>,
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
                let keeper = world.nodes.get(&world.server).and_then(|node| node.keeper.as_ref());
                let catalog = keeper.and_then(|keeper| keeper.catalog(&world.service_name));
                if let Some(catalog) = catalog {
                    let until_ms = world.now_ms + Self::within_ms(world);
                    self.due.push((until_ms, catalog.version.number, world.now_ms));
                }
            }
            Occasion::Handled(_) | Occasion::Second => {
                while self.due.first().is_some_and(|(until_ms, ..)| *until_ms <= world.now_ms) {
                    let (_, number, since_ms) = self.due.remove(0);
                    // Whoever comes, goes or stands still knows what it knows.
                    if world.last_fault_ms + 30_000 < since_ms && world.net.is_whole() {
                        known(world, number, since_ms)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn known(world: &World, number: u64, since_ms: u64) -> Result<(), String> {
    for (node, keeper) in world.nodes.iter().filter_map(|(node, state)| Some((node, state.keeper.as_ref()?)))
    {
        let known = keeper.catalog(&world.service_name).map_or(0, |catalog| catalog.version.number);
        if known < number {
            return Err(format!(
                "node {node} knows catalog {known}; {number} was published at {since_ms} ms"
            ));
        }
    }
    Ok(())
}
