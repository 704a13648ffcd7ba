//! Logic: what a node is to hold of what is retained, and what becomes of what it is to hold no more.
//!
//! A part that goes because its pack is no longer retained goes at once. One that goes because its node holds another
//! one instead goes only when the server has said that it counts on it no more.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::PackId;

use super::Keeper;
use super::catalog::Catalog;
use super::event::Action;
use super::line::Line;
use super::part::{Pack, Part, Which};

/// A part that a node is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) pack: Pack,
}

/// A pack that is retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) pack: Pack,
    /// The lines that list it, the one with the greatest term first.
    pub(super) lines: Vec<Line>,
}

/// A part that is held no more as soon as the servers of all lines that list its pack have counted these reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shed {
    pub(super) reports: BTreeMap<Line, u64>,
}

impl Keeper {
    /// What this node is to hold of a line's packs, in the order in which they were added.
    fn wants_of(&self, catalog: &Catalog) -> Vec<(Part, Want)> {
        let mut wants = Vec::new();
        let is_whole = catalog.is_whole_holder(&self.me);
        let is_encoder = catalog.encoders.contains(&self.me);
        let spread_to = self.spread_to(&catalog.line());
        for listed in catalog.packs() {
            // Where lines cut it in different ways, the one with the greatest term counts.
            let pack =
                self.packs.get(&listed.id).map_or(listed, |known| Pack { added: listed.added, ..known.pack });
            let want = Want { pack };
            if is_whole || (is_encoder && pack.added > spread_to) {
                wants.push((pack.whole(), want));
            }
            if !is_whole {
                let indices = [self.claim.index, self.claim.moving].into_iter().flatten();
                wants.extend(indices.map(|index| (pack.share(index), want)));
            }
        }
        wants
    }

    /// Works out anew what is wanted; begins and ends what follows from that.
    pub(super) fn renew_wants(&mut self) {
        self.are_wants_stale = false;
        self.is_busy = true;
        self.packs = self.listed();
        let mut all: Vec<(Part, Want)> =
            self.lines.catalogs().flat_map(|catalog| self.wants_of(catalog)).collect();
        // What this node is the server of nobody else may have. The rest in the order of age over all services, so that
        // a cap leaves out what is newest.
        let own = self.lines.catalogs().filter(|catalog| catalog.server == self.me);
        let own: BTreeSet<PackId> = own.flat_map(|catalog| catalog.packs()).map(|pack| pack.id).collect();
        all.sort_by_key(|(part, want)| (!own.contains(&part.pack), want.pack.added, *part));
        let (mut wants, mut bytes, mut short) = (BTreeMap::new(), 0_u64, 0_u64);
        for (part, want) in all {
            let part_bytes = want.pack.part_bytes(part.which);
            if wants.contains_key(&part) {
                continue;
            }
            let is_too_much = bytes.saturating_add(part_bytes) > self.config.storage_bytes_max;
            if is_too_much && !own.contains(&part.pack) {
                short = short.saturating_add(part_bytes);
                continue;
            }
            bytes = bytes.saturating_add(part_bytes);
            wants.insert(part, want);
        }
        // What was fetched only to make another part may be wanted for itself from now on: it was not synced then.
        let is_written = |part: &&Part| self.shelf.is_whole(part) && !self.shelf.is_synced(part);
        let unsynced: Vec<Part> =
            wants.keys().filter(|part| !self.wants.contains_key(*part)).filter(is_written).copied().collect();
        unsynced.into_iter().for_each(|part| self.sync(part));
        self.wants = wants;
        self.short_bytes = short;
        let (packs, now_ms) = (&self.packs, self.now_ms);
        self.serving.forget_unknown(now_ms, |pack| packs.contains_key(pack));
        self.let_go();
        self.begin_wanted();
    }

    /// All packs that are retained.
    fn listed(&self) -> BTreeMap<PackId, Listed> {
        let mut packs: BTreeMap<PackId, Listed> = BTreeMap::new();
        for (line, catalog) in self.lines.all().rev() {
            for pack in catalog.packs() {
                let listed = packs.entry(pack.id).or_insert_with(|| Listed { pack, lines: Vec::new() });
                listed.lines.push(line.clone());
            }
        }
        packs
    }

    /// Ends jobs and drops parts that are wanted no more.
    fn let_go(&mut self) {
        let jobs: Vec<Part> = self.jobs.all().map(|job| job.part).collect();
        for part in jobs {
            let made_into = self.jobs.get(&part).and_then(|job| job.made_into);
            let is_wanted = made_into.map_or(self.is_wanted(&part), |into| self.is_wanted(&into));
            if !is_wanted {
                self.jobs.end(&part);
                self.forget_waiters(&part);
                if !self.shelf.contains(&part) {
                    // Nothing of it has come, but it may be about to.
                    self.out.push(Action::Drop { part });
                }
            }
        }
        let here: Vec<Part> = self.shelf.parts().copied().collect();
        for part in here {
            let is_for_another = self.jobs.get(&part).is_some() || self.is_used_to_make(&part);
            if self.is_wanted(&part) {
                self.shed.remove(&part);
            } else if self.asked_about(&part).is_empty() {
                self.drop_part(&part);
            } else if !self.shelf.is_synced(&part) {
                if !is_for_another {
                    self.drop_part(&part);
                }
            } else {
                self.shed_later(part);
            }
        }
        self.drop_shed();
    }

    /// Whether a part that is being made takes this one.
    pub(super) fn is_used_to_make(&self, part: &Part) -> bool {
        let Which::Fragment(index) = part.which else { return false };
        let of_pack = self.jobs.all().filter(|job| job.part.pack == part.pack);
        of_pack.into_iter().any(|job| job.rebuild.as_ref().is_some_and(|chosen| chosen.contains(&index)))
    }

    fn begin_wanted(&mut self) {
        let missing: Vec<(Part, Want)> = self
            .wants
            .iter()
            .filter(|(part, _)| !self.shelf.is_whole(part))
            .map(|(part, want)| (*part, *want))
            .collect();
        for (part, want) in missing {
            let whole = want.pack.whole();
            if part.which != Which::Whole && self.shelf.is_whole(&whole) {
                self.make_of_whole(part, want);
            } else if part.which == Which::Whole || !self.wants.contains_key(&whole) {
                self.jobs.begin(self.now_ms, want.pack, part, None);
            } else if self.jobs.get(&part).is_some() {
                // It will be made of the whole pack, which is wanted, too.
                self.jobs.end(&part);
            }
        }
    }

    fn make_of_whole(&mut self, part: Part, want: Want) {
        self.jobs.begin(self.now_ms, want.pack, part, None);
        if let Some(job) = self.jobs.get_mut(&part).filter(|job| !job.is_making) {
            job.is_making = true;
            self.out.push(Action::Make { part, from: vec![want.pack.whole()] });
        }
    }

    /// A part is here whole: it is synced if it is to stay.
    pub(super) fn arrived(&mut self, part: Part) {
        self.end_rebuild(&part);
        let Some(job) = self.jobs.end(&part) else { return self.sync(part) };
        if let Some(into) = job.made_into {
            self.make_if_ready(into);
        }
        if self.is_wanted(&part) {
            self.sync(part);
        }
        if part.which == Which::Whole && job.pack.cut.is_some() {
            self.begin_wanted();
        }
    }

    /// A part is damaged or gone: what is wanted of it comes anew.
    pub(super) fn lost(&mut self, part: &Part) {
        self.shed.remove(part);
        if self.shelf.remove(part) {
            self.are_wants_stale = true;
        }
    }

    fn sync(&mut self, part: Part) {
        self.out.push(Action::Sync { part });
    }

    pub(super) fn is_wanted(&self, part: &Part) -> bool {
        self.wants.contains_key(part)
    }

    pub(super) fn drop_part(&mut self, part: &Part) {
        self.shed.remove(part);
        self.forget_waiters(part);
        self.shelf.remove(part);
        self.out.push(Action::Drop { part: *part });
    }

    /// A pack that is retained.
    #[must_use]
    pub fn pack(&self, id: &PackId) -> Option<Pack> {
        self.packs.get(id).map(|listed| listed.pack)
    }

    /// The catalogs that list a pack, the one with the greatest term first.
    pub(super) fn catalogs_of(&self, pack: &Pack) -> impl Iterator<Item = &Catalog> {
        let lines = self.packs.get(&pack.id).into_iter().flat_map(|listed| &listed.lines);
        lines.filter_map(|line| self.lines.get(line)).map(|catalog| &**catalog)
    }

    /// The catalog by which this node gives a pack as a server.
    pub(super) fn served_as(&self, pack: &Pack) -> Option<&Catalog> {
        self.catalogs_of(pack).find(|catalog| catalog.server == self.me)
    }

    /// The lines whose servers are asked before a part of a retained pack is dropped.
    pub(super) fn asked_about(&self, part: &Part) -> Vec<Line> {
        let listed = self.packs.get(&part.pack).into_iter().flat_map(|listed| &listed.lines);
        listed.filter(|line| line.term.node != self.me).cloned().collect()
    }
}
