//! Logic: the newest catalog of each line, and which lines are needed no more.

use std::collections::BTreeMap;
use std::sync::Arc;

use sustain_proto::{NodeId, ServiceName, Term};

use super::catalog::{Catalog, Version};
use super::line::{Line, replaces};
use crate::limits;

/// What becomes of a catalog.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It, or a newer one, is known.
    Known,
    /// Another line covers it. An older one of its line was known, if so it is said, and goes.
    Covered {
        /// An older one of its line goes.
        goes: bool,
    },
    /// There are too many lines.
    TooMany,
    /// It is kept; these lines go.
    Taken {
        /// Lines that it covers.
        gone: Vec<Line>,
    },
}

/// The catalogs.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines {
    all: BTreeMap<Line, Arc<Catalog>>,
    /// The numbers up to which lines were covered by others.
    covered: BTreeMap<Line, u64>,
}

impl Lines {
    pub(super) fn get(&self, line: &Line) -> Option<&Arc<Catalog>> {
        self.all.get(line)
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = (&Line, &Arc<Catalog>)> {
        self.all.iter()
    }

    pub(super) fn catalogs(&self) -> impl Iterator<Item = &Arc<Catalog>> {
        self.all.values()
    }

    /// The lines of a service, the one with the greatest term first.
    pub(super) fn of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Catalog>> {
        let edge = |byte, number| Line {
            service: service.clone(),
            term: Term { counter: number, node: NodeId::from_bytes([byte; 32]), nonce: number },
        };
        self.all.range(edge(0, 0)..=edge(u8::MAX, u64::MAX)).rev().map(|(_, catalog)| catalog)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether a catalog, or a newer one of its line, is known to be covered by another line.
    pub(super) fn is_covered(&self, line: &Line, number: u64) -> bool {
        self.covered.get(line).is_some_and(|covered| *covered >= number)
    }

    /// What is known of a line and of others of its service.
    pub(super) fn versions(&self, service: &ServiceName) -> Vec<Version> {
        self.of(service).map(|catalog| catalog.version).collect()
    }

    /// Keeps a catalog if it is news and no other line covers it; lets go of the lines that it covers.
    pub(super) fn put(&mut self, catalog: &Arc<Catalog>) -> Put {
        let line = catalog.line();
        let known = self.all.get(&line);
        if known.is_some_and(|known| known.version.number >= catalog.version.number) {
            return Put::Known;
        }
        let others: Vec<&Arc<Catalog>> =
            self.of(&line.service).filter(|other| other.version.term != line.term).collect();
        let mut gone = Vec::new();
        for other in &others {
            if replaces(other, catalog) {
                let goes = self.all.remove(&line).is_some();
                self.note_covered(line, catalog.version.number);
                return Put::Covered { goes };
            }
            if replaces(catalog, other) {
                gone.push(other.line());
            }
        }
        let kept = others.len() - gone.len();
        let is_new_service = others.is_empty() && known.is_none();
        let is_too_much = known.is_none() && kept >= limits::LINES_MAX;
        if is_too_much || (is_new_service && self.services() >= limits::SERVICES_KEPT_MAX) {
            return Put::TooMany;
        }
        for line in &gone {
            if let Some(old) = self.all.remove(line) {
                self.note_covered(line.clone(), old.version.number);
            }
        }
        self.all.insert(line, Arc::clone(catalog));
        Put::Taken { gone }
    }

    fn note_covered(&mut self, line: Line, number: u64) {
        if self.covered.len() >= limits::LINES_COVERED_MAX && !self.covered.contains_key(&line) {
            // Whichever is forgotten is asked for once more.
            self.covered.pop_first();
        }
        let covered = self.covered.entry(line).or_default();
        *covered = number.max(*covered);
    }

    fn services(&self) -> usize {
        let mut services: Vec<&ServiceName> = self.all.keys().map(|line| &line.service).collect();
        services.dedup();
        services.len()
    }
}
