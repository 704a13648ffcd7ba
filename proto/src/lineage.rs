//! Ancestry between snapshots, decided from terms and sequence numbers alone (P13).

use std::collections::BTreeMap;

use crate::{Manifest, Term, TermOrigin};

/// Term records: which term branched off which, and where.
///
/// Two snapshots of one term are ordered by their sequence numbers. A snapshot of another term is an
/// ancestor if following the origins leads into its term at or after its number. Everything else has
/// forked. Clocks play no part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    origins: BTreeMap<Term, Option<TermOrigin>>,
}

impl Lineage {
    /// Notes the term record that a manifest carries.
    pub fn learn(&mut self, manifest: &Manifest) {
        self.learn_term(manifest.term, manifest.origin);
    }

    /// Notes a term record. The first one heard stands: a term has one origin.
    pub fn learn_term(&mut self, term: Term, origin: Option<TermOrigin>) {
        self.origins.entry(term).or_insert(origin);
    }

    /// The record of a term, if it is known.
    #[must_use]
    pub fn origin(&self, term: &Term) -> Option<Option<TermOrigin>> {
        self.origins.get(term).copied()
    }

    /// Whether the snapshot (`term`, `seq`) is an ancestor of (or equal to) the state that the term
    /// `of` had at number `of_seq`. False where a term record on the way is missing.
    #[must_use]
    pub fn contains(&self, of: &Term, of_seq: u64, term: &Term, seq: u64) -> bool {
        let mut at = *of;
        let mut at_seq = of_seq;
        // Every step goes to another known term, so there are at most as many steps as terms; a
        // hostile cycle ends here too.
        for _ in 0..=self.origins.len() {
            if at == *term {
                return seq <= at_seq;
            }
            let Some(Some(origin)) = self.origins.get(&at) else {
                return false;
            };
            at = origin.parent;
            at_seq = at_seq.min(origin.seq);
        }
        false
    }
}
