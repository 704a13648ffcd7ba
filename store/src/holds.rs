//! Logic: which snapshots of a service stay, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::{Lineage, PinName, SnapshotId, Term};

use crate::named_pins::NamedPins;
use crate::retention::{Dated, Retention, Rule};
use crate::state::Snapshot;

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Reason {
    /// It is what the rebase is for: its contents are the base's.
    Base,
    /// It came after the base, or after what becomes the base.
    Newer,
    /// Nothing continues it (P13).
    Head,
    /// It is the newest durable one of a line whose head is not durable.
    NewestDurable,
    /// A rule of the retention keeps it.
    Retained {
        /// Which one.
        rule: Rule,
    },
    /// Somebody has pinned it.
    Pinned {
        /// Under which name.
        name: PinName,
    },
    /// Other snapshots that stay refer to it.
    Needed,
}

/// What is asked for besides what always stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes<'a> {
    pub(crate) retention: Retention,
    pub(crate) now_ms: u64,
    pub(crate) pins: &'a NamedPins,
}

/// A snapshot's place in the lineage, which a rebase keeps.
type At = (Term, u64);

fn at(snapshot: &Snapshot) -> At {
    (snapshot.manifest.term, snapshot.manifest.seq)
}

/// What descends from what among a service's snapshots.
#[derive(Debug)]
pub(crate) struct Family {
    lineage: Lineage,
    /// Of each term the newest snapshot.
    tips: Vec<At>,
}

impl Family {
    pub(crate) fn of(all: &[Arc<Snapshot>]) -> Self {
        let mut lineage = Lineage::default();
        let mut tips: BTreeMap<Term, u64> = BTreeMap::new();
        for snapshot in all {
            lineage.learn(&snapshot.manifest);
            let (term, seq) = at(snapshot);
            let tip = tips.entry(term).or_insert(seq);
            *tip = seq.max(*tip);
        }
        Self { lineage, tips: tips.into_iter().collect() }
    }

    fn is_before(&self, older: At, newer: At) -> bool {
        older != newer && self.lineage.contains(&newer.0, newer.1, &older.0, older.1)
    }

    /// Whether a snapshot is an ancestor of another one, and not the same.
    pub(crate) fn precedes(&self, older: &Snapshot, newer: &Snapshot) -> bool {
        self.is_before(at(older), at(newer))
    }

    /// Snapshots that nothing continues. What continues one is known by the newest of its term.
    fn heads(&self) -> Vec<At> {
        let is_head = |tip: &At| !self.tips.iter().any(|other| self.is_before(*tip, *other));
        self.tips.iter().copied().filter(is_head).collect()
    }

    /// Heads, and of each line the newest durable snapshot: nothing durable goes for something that is not.
    fn ends(&self, all: &[Arc<Snapshot>]) -> BTreeMap<At, BTreeSet<Reason>> {
        let mut ends: BTreeMap<At, BTreeSet<Reason>> = BTreeMap::new();
        for head in self.heads() {
            ends.entry(head).or_default().insert(Reason::Head);
            let of_line = |s: &&Arc<Snapshot>| at(s) == head || self.is_before(at(s), head);
            let durable = all.iter().filter(|s| s.level.is_some()).filter(of_line);
            if let Some(newest) = durable.max_by_key(|s| s.manifest.seq).map(|s| at(s)) {
                ends.entry(newest).or_default().insert(Reason::NewestDurable);
            }
        }
        ends
    }
}

/// Which of a service's snapshots stay when one of them is the base or becomes it, each with all reasons. `all` are
/// those that can be restored.
pub(crate) fn holds(
    all: &[Arc<Snapshot>],
    promoted: &Snapshot,
    wishes: Wishes<'_>,
) -> BTreeMap<SnapshotId, BTreeSet<Reason>> {
    let family = Family::of(all);
    let ends = family.ends(all);
    let everything = wishes.retention == Retention::EVERYTHING;
    let of_line = |s: &&Arc<Snapshot>| {
        everything || at(s) == at(promoted) || family.precedes(s, promoted) || family.precedes(promoted, s)
    };
    let line: Vec<Dated> = all
        .iter()
        .filter(of_line)
        .map(|s| Dated { id: s.id, seq: s.manifest.seq, time_ms: s.manifest.time_ms })
        .collect();
    let retained = wishes.retention.keeps(&line, wishes.now_ms);
    let mut holds = BTreeMap::new();
    for snapshot in all {
        let mut reasons = ends.get(&at(snapshot)).cloned().unwrap_or_default();
        if snapshot.id == promoted.id {
            reasons.insert(Reason::Base);
        }
        if family.precedes(promoted, snapshot) {
            reasons.insert(Reason::Newer);
        }
        let rules = retained.get(&snapshot.id).into_iter().flatten();
        reasons.extend(rules.map(|rule| Reason::Retained { rule: *rule }));
        let names = wishes.pins.of(snapshot).iter();
        reasons.extend(names.map(|name| Reason::Pinned { name: name.clone() }));
        if !reasons.is_empty() {
            holds.insert(snapshot.id, reasons);
        }
    }
    holds
}
