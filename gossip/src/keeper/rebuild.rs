//! Logic: making a part that nobody has: of the whole pack if that is here, else of as many fragments as it takes,
//! which are fetched for that and go afterwards.

use std::collections::BTreeSet;

use super::Keeper;
use super::event::Action;
use super::part::{Pack, Part, Which};
use crate::holdings::Fragment;
use crate::limits;

/// How long nothing may have come of a part before it is made of fragments. By then every source was asked.
const REBUILD_MS: u64 = 7_000;
/// How often the pause after a vain try grows: to three minutes.
const PAUSES_MAX: u32 = 24;
/// How long nothing may have come of a fragment for that before another one is fetched instead.
const REPLACE_MS: u64 = 8_000;

impl Keeper {
    /// Begins to fetch fragments, if nobody gives a part; takes other ones, if nobody gives those.
    pub(super) fn consider_rebuild(&mut self, part: Part) {
        let Some(job) = self.jobs.get(&part) else { return };
        let (pack, now_ms) = (job.pack, self.now_ms);
        if pack.cut.is_none() || job.made_into.is_some() {
            return;
        }
        let is_usable =
            |node| self.attendance.is_alive(node) && !job.peers.get(node).is_some_and(|peer| peer.is_liar);
        let nobody = !job.sources.iter().any(|source| is_usable(&source.node));
        let chosen = match &job.rebuild {
            Some(chosen) => chosen.clone(),
            None => {
                let due_ms = job.progress_ms + if nobody { 0 } else { REBUILD_MS };
                let due_ms = due_ms.max(job.rebuild_ms);
                if now_ms < due_ms {
                    self.retry_ms = self.retry_ms.min(due_ms);
                    return;
                }
                let rebuilds = self.jobs.all().filter(|job| job.rebuild.is_some()).count();
                if rebuilds >= limits::REBUILDS_MAX {
                    return;
                }
                BTreeSet::new()
            }
        };
        let stays = |index: &Fragment| {
            let fragment = pack.share(*index);
            let job = self.jobs.get(&fragment);
            self.shelf.is_whole(&fragment) || job.is_some_and(|job| now_ms < job.progress_ms + REPLACE_MS)
        };
        let mut kept: BTreeSet<Fragment> = chosen.iter().filter(|index| stays(index)).copied().collect();
        // What is slow is replaced, where there is something else.
        let slow: Vec<Fragment> = chosen.difference(&kept).copied().collect();
        let is_short = kept.len() < pack.needed();
        let others = if is_short { self.fragments_by_ease(&pack, &part) } else { Vec::new() };
        for index in others.iter().filter(|index| !slow.contains(index)).chain(&slow) {
            if kept.len() < pack.needed() {
                kept.insert(*index);
            }
        }
        if kept.len() < pack.needed() {
            // There are too few: what is fetched of them leads nowhere.
            return self.pause_rebuild(&part);
        }
        let dropped: Vec<Fragment> = chosen.difference(&kept).copied().collect();
        if let Some(job) = self.jobs.get_mut(&part) {
            job.rebuild = (!kept.is_empty()).then(|| kept.clone());
        }
        for index in &dropped {
            self.end_if_for(&pack.share(*index), &part);
        }
        for index in &kept {
            let fragment = pack.share(*index);
            if !self.shelf.is_whole(&fragment) {
                self.jobs.begin(now_ms, pack, fragment, Some(part));
            }
        }
        self.retry_ms = self.retry_ms.min(now_ms + REPLACE_MS);
        self.make_if_ready(part);
    }

    /// Nothing comes of a part, not even from fragments: it is tried again after a pause, longer each time.
    pub(super) fn pause_rebuild(&mut self, part: &Part) {
        let now_ms = self.now_ms;
        self.end_rebuild(part);
        if let Some(job) = self.jobs.get_mut(part).filter(|job| !job.is_making) {
            job.rebuild_ms = now_ms + REBUILD_MS * u64::from(1 + job.penalty.min(PAUSES_MAX));
            self.retry_ms = self.retry_ms.min(job.rebuild_ms);
        }
    }

    /// Fragments of a pack that can be had: those that are here, those that many hold.
    fn fragments_by_ease(&self, pack: &Pack, except: &Part) -> Vec<Fragment> {
        let here = self.shelf.of(pack.id).filter(|part| self.shelf.is_whole(part));
        let here: BTreeSet<Fragment> = here
            .filter_map(|part| match part.which {
                Which::Fragment(index) => Some(index),
                Which::Whole => None,
            })
            .collect();
        let near = |index: &Fragment| {
            let near = self.overlay.near(&self.me);
            self.claims.holders(*index).filter(|node| near.contains(node)).count()
        };
        let alive = |index: &Fragment| {
            self.claims
                .holders(*index)
                .filter(|node| *node != self.me && self.attendance.is_alive(node))
                .count()
        };
        let ranked = self.claims.held().filter(|index| pack.share(*index) != *except).map(|index| {
            let is_here = here.contains(&index);
            ((is_here, near(&index), alive(&index)), index)
        });
        let mut ranked: Vec<_> = ranked.filter(|((here, _, alive), _)| *here || *alive > 0).collect();
        ranked.sort_unstable_by(|one, other| other.cmp(one));
        ranked.into_iter().map(|(_, index)| index).collect()
    }

    /// Has a part made, if all that it takes is here.
    pub(super) fn make_if_ready(&mut self, part: Part) {
        let Some(job) = self.jobs.get(&part).filter(|job| !job.is_making) else { return };
        let (Some(chosen), pack) = (&job.rebuild, job.pack) else { return };
        let from: Vec<Part> = chosen.iter().map(|index| pack.share(*index)).collect();
        let is_ready = from.len() >= pack.needed() && from.iter().all(|part| self.shelf.is_whole(part));
        if let Some(job) = self.jobs.get_mut(&part).filter(|_| is_ready) {
            job.is_making = true;
            self.out.push(Action::Make { part, from });
        }
    }

    pub(super) fn made(&mut self, part: Part) {
        self.is_busy = true;
        self.end_rebuild(&part);
        let Some(pack) = self.pack(&part.pack) else { return };
        if self.is_wanted(&part) {
            self.shelf.put_written(part, pack.part_bytes(part.which));
            self.arrived(part);
            self.tell_waiters(part);
        }
    }

    pub(super) fn not_made(&mut self, part: Part) {
        self.is_busy = true;
        let now_ms = self.now_ms;
        self.end_rebuild(&part);
        if let Some(job) = self.jobs.get_mut(&part) {
            (job.is_making, job.rebuild, job.progress_ms) = (false, None, now_ms);
        } else {
            self.are_wants_stale = true;
        }
    }

    /// What was fetched only to make a part goes.
    pub(super) fn end_rebuild(&mut self, part: &Part) {
        let Some(pack) = self.pack(&part.pack) else { return };
        let chosen = self.jobs.get_mut(part).and_then(|job| job.rebuild.take()).unwrap_or_default();
        for index in chosen {
            self.end_if_for(&pack.share(index), part);
        }
    }

    fn end_if_for(&mut self, fragment: &Part, made_into: &Part) {
        let is_for = self.jobs.get(fragment).is_some_and(|job| job.made_into == Some(*made_into));
        if is_for {
            self.jobs.end(fragment);
        }
        // What is on its way out by a move stays until that is done.
        let is_used = self.jobs.get(fragment).is_some() || self.is_used_to_make(fragment);
        if !self.is_wanted(fragment) && !self.shed.contains_key(fragment) && !is_used {
            self.drop_part(fragment);
        }
    }
}
