//! Logic: of two servers that went on apart nothing durable is lost before it is merged, and nothing stays after that.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{PackId, SnapshotId, Term};

use super::{Checker, Occasion};
use crate::keeper::{Catalog, Entry, Pack, covers};
use crate::sim::reign::Side;
use crate::sim::world::World;

/// How long what was merged may take to go, without faults.
const WITHIN_MS: u64 = 30_000;

/// A snapshot of a line that lost, which was said to survive what it should.
#[derive(Debug, Clone)]
struct Head {
    id: SnapshotId,
    /// A catalog that lists nothing else.
    catalog: Catalog,
    packs: Vec<Pack>,
    covered_ms: Option<u64>,
}

/// **A snapshot that survived f losses in a line that lost can be rebuilt until the winning line says that it was
/// merged; some time after that nobody keeps the line, or what only it lists.**
#[derive(Debug, Default)]
pub(super) struct Lines {
    heads: BTreeMap<Term, Head>,
    fault_ms: u64,
}

impl Checker for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn look(&mut self, world: &World, occasion: &Occasion) -> Result<(), String> {
        match occasion {
            Occasion::Fault | Occasion::Crashed(_) | Occasion::Lost(_) | Occasion::Started(_) => {
                self.fault_ms = world.now_ms;
            }
            Occasion::Level(Side::Rival, _) => self.note(world),
            _ => {}
        }
        if matches!(occasion, Occasion::Dropped(_) | Occasion::Lost(_) | Occasion::Second | Occasion::Healed)
        {
            self.note(world);
            self.note_covered(world);
            self.is_restorable(world)?;
        }
        if matches!(occasion, Occasion::Second | Occasion::Healed) { self.is_gone(world) } else { Ok(()) }
    }
}

impl Lines {
    /// While a server goes on apart, its newest snapshot that survives what it should is its head. What it rebases or
    /// forgets itself is its own affair.
    fn note(&mut self, world: &World) {
        let rival = world.rival.as_ref().filter(|rival| !rival.is_over);
        let (Some(rival), Some(catalog)) = (rival, world.published(Side::Rival)) else { return };
        let term = catalog.version.term;
        let is_durable = |entry: &&Entry| {
            let level = rival.levels.get(&entry.id).copied().flatten();
            entry.term == term && level >= Some(world.scenario.tolerance)
        };
        let Some(entry) = catalog.entries.iter().filter(is_durable).max_by_key(|entry| entry.seq) else {
            self.heads.remove(&term);
            return;
        };
        if self.heads.get(&term).is_none_or(|head| head.id != entry.id) {
            let packs = catalog.needed_by(entry).into_values().collect();
            let catalog = Catalog { entries: vec![entry.clone()], ..catalog.clone() };
            self.heads.insert(term, Head { id: entry.id, catalog, packs, covered_ms: None });
        }
    }

    /// A head is covered when the other line has gone on from it, or says that it was merged.
    fn note_covered(&mut self, world: &World) {
        let now = [world.published(Side::Main), world.main.last.as_ref()];
        for head in self.heads.values_mut().filter(|head| head.covered_ms.is_none()) {
            let is_covered = now.iter().flatten().any(|main| covers(main, &head.catalog));
            head.covered_ms = is_covered.then_some(world.now_ms);
        }
    }

    fn is_restorable(&self, world: &World) -> Result<(), String> {
        for head in self.heads.values().filter(|head| head.covered_ms.is_none()) {
            for pack in &head.packs {
                let holders = world.disks.holders(&pack.id);
                if holders.map_or(0, |holders| holders.losses(pack.needed(), &BTreeSet::new())) == 0 {
                    let (id, pack) = (head.id.short(), pack.id.short());
                    return Err(format!("pack {pack} of {id}, which was durable and is not merged, is gone"));
                }
            }
        }
        Ok(())
    }

    fn is_gone(&self, world: &World) -> Result<(), String> {
        let since_ms = |head: &Head| Some(head.covered_ms?.max(self.fault_ms) + WITHIN_MS);
        let due =
            self.heads.values().filter(|head| since_ms(head).is_some_and(|at_ms| at_ms <= world.now_ms));
        let Some(catalog) = world.published(Side::Main).filter(|_| world.net.is_whole()) else {
            return Ok(());
        };
        let retained: BTreeSet<PackId> = catalog.packs().into_iter().map(|pack| pack.id).collect();
        for head in due {
            let line = head.catalog.line();
            for (number, node) in &world.nodes {
                let Some(keeper) = &node.keeper else { continue };
                if keeper.catalog_of_line(&line).is_some() {
                    return Err(format!("node {number} still keeps the line of {}", line.term));
                }
                let gone = head.packs.iter().filter(|pack| !retained.contains(&pack.id));
                let holds =
                    |pack: &&Pack| world.disks.holders(&pack.id).is_some_and(|holders| holders.has(*number));
                if let Some(pack) = gone.clone().find(holds) {
                    return Err(format!(
                        "node {number} still holds pack {} of {}",
                        pack.id.short(),
                        line.term
                    ));
                }
            }
        }
        Ok(())
    }
}
