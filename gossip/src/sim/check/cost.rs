//! Logic: what moves when nodes come and go is bounded.

use std::collections::BTreeMap;

use sustain_proto::PackId;

use super::{Checker, Occasion};
use crate::sim::world::World;

/// A pack is old when it has been there for so long: what is fetched of it then is no spreading any more.
const OLD_MS: u64 = 30_000;
/// What one node that comes or goes may move on average, as a share of all data: its own share and those of nodes that
/// move for it.
const SHARE_MAX: f64 = 0.6;

/// **What nodes fetch of old packs is bounded by the number of nodes that came or went**: at most 0.6 of all
/// data for each, and half of it once; runs take a quarter of that or less.
#[derive(Default)]
pub(super) struct Cost {
    made_ms: BTreeMap<PackId, u64>,
    seen: usize,
    fetched: u64,
    allowed: f64,
}

impl Cost {
    /// Bytes of all that is retained.
    fn data(world: &World) -> f64 {
        let packs: BTreeMap<PackId, u64> = world
            .main
            .service
            .entries()
            .iter()
            .flat_map(|entry| &entry.packs)
            .map(|pack| (pack.id, pack.bytes))
            .collect();
        packs.values().sum::<u64>() as f64
    }
}

impl Checker for Cost {
    fn name(&self) -> &'static str {
        "cost"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        match occasion {
            Occasion::Published => {
                let new = world.main.service.made.iter().skip(self.seen);
                self.made_ms.extend(new.map(|(pack, _)| (*pack, world.now_ms)));
                self.seen = world.main.service.made.len();
            }
            Occasion::Started(_) | Occasion::Lost(_) => self.allowed += Self::data(world) * SHARE_MAX,
            // Whoever was cut off may have to catch up: as many as an island has. Others move once, or change roles.
            Occasion::Fault => {
                let nodes = if world.net.island.is_empty() { 1 } else { world.nodes.len() };
                self.allowed += Self::data(world) * SHARE_MAX * nodes as f64;
            }
            Occasion::Fetched(_, part, bytes) => {
                let is_old =
                    self.made_ms.get(&part.pack).is_some_and(|made_ms| made_ms + OLD_MS < world.now_ms);
                self.fetched += if is_old { *bytes } else { 0 };
                let slack = Self::data(world) / 2.0;
                if is_old && self.fetched as f64 > self.allowed + slack {
                    let (fetched, allowed) = (self.fetched, self.allowed);
                    return Err(format!(
                        "{fetched} bytes of old packs were fetched, {allowed:.0} are allowed"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
