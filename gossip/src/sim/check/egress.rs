//! Logic: the server's uplink carries what is new about once.

use std::collections::BTreeMap;

use sustain_proto::PackId;

use super::{Checker, Occasion};
use crate::sim::world::World;

/// Bytes that a pack costs in any case: small ones are given in one piece, and perhaps twice.
const SLACK_BYTES: u64 = 64 << 10;
/// How long nothing may have gone wrong before and after a pack was made; what is sent of it in that time counts.
const CALM_MS: u64 = 20_000;

/// **The server sends at most 1.3 times what is new**, counted over all packs around which nothing went wrong, however
/// many nodes and fragments there are.
#[derive(Default)]
pub(super) struct Egress {
    sent: BTreeMap<PackId, u64>,
    made_ms: BTreeMap<PackId, u64>,
    faults_ms: Vec<u64>,
    seen: usize,
}

impl Checker for Egress {
    fn name(&self) -> &'static str {
        "egress"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        match occasion {
            Occasion::Served(node, part, bytes) if *node == world.main.server => {
                // What goes out later is for nodes that came or took another part since.
                let made_ms = self.made_ms.get(&part.pack).copied().unwrap_or(world.now_ms);
                if world.now_ms < made_ms + CALM_MS {
                    *self.sent.entry(part.pack).or_default() += bytes;
                }
            }
            Occasion::Fault | Occasion::Crashed(_) => self.faults_ms.push(world.now_ms),
            Occasion::Published => {
                let new = world.main.service.made.iter().skip(self.seen);
                self.made_ms.extend(new.map(|(pack, _)| (*pack, world.now_ms)));
                self.seen = world.main.service.made.len();
            }
            Occasion::Ended => return self.sum(world),
            _ => {}
        }
        Ok(())
    }
}

impl Egress {
    fn sum(&self, world: &World) -> Result<(), String> {
        if world.net.link.loss > 0.0 || world.net.link.broken > 0.0 {
            return Ok(());
        }
        let is_calm = |made_ms: u64| {
            made_ms + CALM_MS < world.now_ms
                && !self.faults_ms.iter().any(|at_ms| at_ms.abs_diff(made_ms) < CALM_MS)
        };
        let (mut sent, mut new) = (0, 0);
        for (pack, bytes) in &world.main.service.made {
            if self.made_ms.get(pack).is_some_and(|made_ms| is_calm(*made_ms)) {
                sent += self.sent.get(pack).copied().unwrap_or(0);
                new += bytes + SLACK_BYTES;
            }
        }
        if sent * 10 > new * 13 {
            return Err(format!("the server has sent {sent} bytes of packs with {new}"));
        }
        Ok(())
    }
}
