//! The model of one service: what was acknowledged, what may be there, and what is durable.

use std::collections::BTreeMap;

use crate::common::Regions;

/// A state that was to be stored: in which attempt, under which number, and with what in it.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    pub(super) attempt: u64,
    pub(super) seq: u64,
    pub(super) content: Regions,
}

/// What is known of one service.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    /// Acknowledged: must be there, by number.
    pub(super) kept: BTreeMap<u64, (u64, Regions)>,
    /// Dropped by a rebase that failed: may be there.
    pub(super) dropped: BTreeMap<u64, (u64, Regions)>,
    /// Told to be durable.
    pub(super) marks: BTreeMap<u64, u32>,
    /// Marks that failed.
    pub(super) marks_doubtful: Vec<(u64, u32)>,
    /// Pushed or imported, with an error: may be there once the store is opened again.
    pub(super) doubtful: Vec<Doubt>,
    /// What the next push is a change of.
    pub(super) current: Regions,
}

impl Line {
    pub(super) fn newest(&self) -> Option<u64> {
        self.kept.keys().next_back().copied()
    }

    /// The number of the snapshot so many before the newest.
    pub(super) fn back(&self, back: usize) -> Option<u64> {
        self.kept.keys().rev().nth(back).copied()
    }

    /// Whether a snapshot is durable; none if that is not known.
    fn durable(&self, seq: u64) -> Option<bool> {
        match self.marks.contains_key(&seq) {
            false if self.marks_doubtful.iter().any(|mark| mark.0 == seq) => None,
            known => Some(known),
        }
    }

    /// Of those that went for the promoted one, the newest durable one stays unless that, or a newer one, is durable.
    /// Returns how many may stay.
    pub(super) fn keep_durable(&mut self, promoted: u64, going: BTreeMap<u64, (u64, Regions)>) -> usize {
        let newer = self.kept.range(promoted..).map(|(seq, _)| self.durable(*seq));
        let newer: Vec<Option<bool>> = newer.chain([self.durable(promoted)]).collect();
        if newer.contains(&Some(true)) {
            return 0;
        }
        let mut certain = !newer.contains(&None);
        let mut stay = 0;
        for (seq, snapshot) in going.into_iter().rev() {
            let durable = self.durable(seq);
            if durable == Some(false) {
                continue;
            }
            stay += 1;
            if certain && durable == Some(true) { &mut self.kept } else { &mut self.dropped }
                .insert(seq, snapshot);
            certain = false;
            if durable == Some(true) {
                break;
            }
        }
        stay
    }
}
