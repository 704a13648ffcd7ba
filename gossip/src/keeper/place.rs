//! Logic: which fragment this node takes, and when it moves to another one.
//!
//! ```text
//!  joins ── chooses ─▶ holds i ── a neighbourhood is short, and this node is the one to move ─▶ waits a little
//!                        ▲                                                                          │ still
//!                        │ all of j is synced                                                       ▼
//!                        └───────────────────────────────────────────────────────── holds i, fetches j
//! ```
//!
//! The wait is another one for each node, so that of two that see the same lack only one moves. What it held is kept
//! until the servers count on it no more.

use rand::{Rng, RngCore};

use super::Keeper;
use super::catalog::Catalog;
use super::part::Pack;
use crate::code::Code;
use crate::holdings::{Fragment, Move, View};

/// How long a node that joins listens first, so that it knows what others hold.
const JOIN_MS: u64 = 1_500;
/// How long changes are collected before they are looked at.
const LOOK_MS: u64 = 300;
/// The longest wait before a move.
const MOVE_MS: u64 = 3_000;
/// How often a node looks again while a neighbourhood is short.
const AGAIN_MS: u64 = 5_000;
/// The shortest wait before a move that others should make, or that only may lead to one that helps.
const HOPELESS_MS: u64 = 4_000;
/// Different fragments that indices are chosen of while packs are not cut, so that they fit when some are.
const TOTAL_PER_DEGREE: usize = 3;

impl Keeper {
    /// How packs are to be cut now of a service that is to survive so many losses (f).
    #[must_use]
    pub fn code(&self, tolerance: usize) -> Code {
        let nodes = self.attendance.counting().len().max(1);
        Code::for_cluster(nodes, self.config.degree, tolerance)
    }

    /// What neighbourhoods are to have: that of the service which asks most of them, as its packs are cut and by its
    /// losses to survive.
    fn wanted(&self) -> (Code, usize) {
        let cut_of = |catalog: &Catalog| {
            let cuts = catalog.packs().into_iter().filter_map(|pack| pack.cut);
            let cut = cuts.max_by_key(|cut| cut.needed)?;
            let code = Code { needed: cut.needed.into(), total: cut.total.into() };
            Some((code, usize::from(catalog.tolerance)))
        };
        let all = self.lines.catalogs().filter_map(|catalog| cut_of(catalog));
        let most = all.max_by_key(|(code, tolerance)| (code.needed + tolerance, code.needed));
        let tolerance = self.lines.catalogs().map(|catalog| usize::from(catalog.tolerance)).max();
        let tolerance = tolerance.unwrap_or(self.config.tolerance);
        let (code, tolerance) = most.unwrap_or_else(|| (self.code(tolerance), tolerance));
        if !code.is_whole() {
            return (code, tolerance);
        }
        let nodes = self.attendance.counting().len().min(self.config.degree + 1);
        let total = (TOTAL_PER_DEGREE * self.config.degree).clamp(2, Fragment::MAX.into());
        (Code { needed: nodes.saturating_sub(tolerance).clamp(2, total), total }, tolerance)
    }

    fn view(&self) -> View<'_> {
        let (code, tolerance) = self.wanted();
        View { overlay: &self.overlay, holdings: self.claims.holdings(), code, tolerance }
    }

    /// How many fragments beyond k + f this node's closed neighbourhood has, as nodes say; below zero it is short.
    #[must_use]
    pub fn margin(&self) -> i64 {
        self.view().margin(self.me)
    }

    /// Looks at who holds what, if it is time, and decides what to take.
    pub(super) fn place(&mut self, random: &mut dyn RngCore) {
        if self.is_place_stale {
            self.is_place_stale = false;
            self.place_ms = self.place_ms.min(self.now_ms + LOOK_MS);
        }
        if self.now_ms < self.place_ms {
            return;
        }
        self.place_ms = u64::MAX;
        if self.claim.index.is_none() {
            let join_ms =
                *self.join_ms.get_or_insert_with(|| self.now_ms + random.random_range(JOIN_MS / 2..JOIN_MS));
            if self.now_ms < join_ms {
                self.place_ms = join_ms;
                return;
            }
            self.claim.index = Some(self.view().choose(self.me).to);
            self.are_wants_stale = true;
            return self.reclaim();
        }
        if self.claim.moving.is_none() {
            self.consider_move(random);
        }
    }

    fn consider_move(&mut self, random: &mut dyn RngCore) {
        let view = self.view();
        let short = self.overlay.closed(self.me).filter(|centre| view.margin(*centre) < 0);
        let (mut is_short, mut mine) = (false, None);
        for centre in short {
            is_short = true;
            mine = mine.or_else(|| view.mend(centre).filter(|to| to.node == self.me));
        }
        if !is_short {
            (self.move_ms, self.hopeless_ms) = (None, None);
            return;
        }
        // What is known may change, and others may not do what they should.
        self.place_ms = self.now_ms + AGAIN_MS;
        let Some(to) = mine.or_else(|| self.lose_patience(random)) else {
            self.move_ms = None;
            return;
        };
        let wait_ms = random.random_range(0..MOVE_MS);
        let at_ms = *self.move_ms.get_or_insert(self.now_ms + wait_ms);
        if self.now_ms < at_ms {
            self.place_ms = at_ms.min(self.place_ms);
            return;
        }
        (self.move_ms, self.hopeless_ms) = (None, None);
        self.claim.moving = Some(to.to);
        self.are_wants_stale = true;
        self.reclaim();
    }

    /// Where a neighbourhood stays short, because who should move does not know of it or no move helps, some of its
    /// nodes move all the same, to where it helps or at least does no harm: few, as the wait is long and another one
    /// for each.
    fn lose_patience(&mut self, random: &mut dyn RngCore) -> Option<Move> {
        let wait_ms = random.random_range(HOPELESS_MS..4 * HOPELESS_MS);
        let due_ms = *self.hopeless_ms.get_or_insert(self.now_ms + wait_ms);
        if self.now_ms < due_ms {
            self.place_ms = self.place_ms.min(due_ms);
            return None;
        }
        let view = self.view();
        view.improve(self.me).or_else(|| view.sidestep(self.me, random.next_u64()))
    }

    /// Ends a move when all that it takes is synced, but for what nobody has given for long.
    pub(super) fn consider_moved(&mut self) {
        let Some(index) = self.claim.moving else { return };
        let is_synced = |catalog: &Catalog| {
            let is_whole = catalog.is_whole_holder(&self.me);
            let is_here = |pack: &Pack| {
                let part = pack.share(index);
                self.shelf.is_synced(&part) || self.is_hopeless(&part)
            };
            is_whole || catalog.packs().iter().all(is_here)
        };
        if self.lines.catalogs().all(|catalog| is_synced(catalog)) {
            self.claim.index = Some(index);
            self.claim.moving = None;
            self.are_wants_stale = true;
            self.is_place_stale = true;
            self.reclaim();
        }
    }

    /// When placement is to be looked at again.
    pub(super) fn place_due_ms(&self) -> u64 {
        if self.is_place_stale { self.place_ms.min(self.now_ms + LOOK_MS) } else { self.place_ms }
    }
}
