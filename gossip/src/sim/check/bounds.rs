//! Logic: nothing grows without a bound.

use super::{Checker, Occasion};
use crate::limits;
use crate::sim::world::World;

/// **Every list of a keeper stays within its named bound**, and a node's disk within what it is to hold and what is on
/// its way out.
pub(super) struct Bounds;

impl Checker for Bounds {
    fn name(&self) -> &'static str {
        "bounds"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        let Occasion::Handled(number) = occasion else { return Ok(()) };
        let node = world.nodes.get(number);
        let Some(keeper) = node.and_then(|node| node.keeper.as_ref()) else { return Ok(()) };
        let load = keeper.load();
        let on_disk = world.disks.get(*number).map_or(0, |disk| disk.len());
        let rival = world.rival.as_ref().map_or(0, |rival| rival.service.made.len());
        let made = world.main.service.made.len() + rival;
        let bounds = [
            ("requests", load.requests, limits::REQUESTS_MAX),
            ("requests served", load.serving, limits::SERVED_MAX),
            ("waiters", load.waiting, limits::WAITED_PARTS_MAX * limits::WAITERS_MAX),
            ("claims", load.claims, limits::CLAIMS_MAX),
            ("claims to be passed on", load.pending, limits::CLAIMS_PASSED_MAX),
            ("reports", load.reports, world.numbers.len() * limits::LINES_MAX),
            // Two fragments of each pack while moving, all of it, and what it takes to make some.
            // What comes late for a request that was given up may leave some.
            ("files", on_disk, load.parts + load.parts / 4 + 16),
            ("parts", load.parts, 8 + 5 * made),
            ("lines", load.lines, limits::LINES_MAX),
            ("offers", load.offers, limits::LINES_TOLD_MAX),
            ("drafts", load.drafts, limits::DRAFTS_MAX),
        ];
        match bounds.iter().find(|(_, has, most)| has > most) {
            Some((what, has, most)) => {
                Err(format!("node {number} has {has} {what}, at most {most} are allowed"))
            }
            None => Ok(()),
        }
    }
}
