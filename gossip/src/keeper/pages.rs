//! Logic: catalogs travel as what is new in them: what is sent to whom, and putting it together again.
//!
//! An entry's number is its own in its line, so that "retained of what you know" is some ranges of numbers. Who asks
//! names the catalogs that it knows; what comes is checked as the whole that it becomes.

use std::collections::BTreeMap;

use sustain_proto::NodeId;

use super::catalog::{Catalog, Entry, Version};
use super::codec::entry_bytes;
use super::line::Line;
use super::lines::Lines;
use super::message::Page;
use super::ranges::Ranges;
use crate::limits;

/// What to answer to who knows these catalogs.
pub(super) fn page_of(catalog: &Catalog, known: &[Version]) -> Page {
    let version = catalog.version;
    let since = |known: &Version| {
        if known.term == version.term {
            return Some(Version { number: known.number.min(version.number), ..*known });
        }
        let inherits = catalog.inherits.filter(|inherits| inherits.term == known.term)?;
        Some(Version { number: known.number.min(inherits.number), ..*known })
    };
    let since = known.iter().filter_map(since).max_by_key(|since| (since.number, since.term == version.term));
    let after = since.map_or(0, |since| since.number);
    let mut kept = Ranges::default();
    let known = catalog.entries.iter().filter(|entry| entry.added <= after);
    known.for_each(|entry| kept.insert(entry.added, entry.added + 1));
    let new = catalog.entries.iter().filter(|entry| entry.added > after);
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        let is_first = bytes == 0;
        bytes += entry_bytes(entry);
        is_first || bytes <= limits::CATALOG_PAGE_BYTES
    };
    let entries = new.take_while(fits).cloned().collect();
    let head = Catalog {
        service: catalog.service.clone(),
        warm: catalog.warm.clone(),
        encoders: catalog.encoders.clone(),
        terms: catalog.terms.clone(),
        merged: catalog.merged.clone(),
        entries,
        ..*catalog
    };
    let total = u32::try_from(catalog.entries.len()).unwrap_or(u32::MAX);
    Page { catalog: head, entries: total, since, kept }
}

/// A catalog of which some has come.
#[derive(Debug, Clone)]
struct Draft {
    from: NodeId,
    /// Whether it began with entries of a catalog that was known.
    is_built_on: bool,
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
    at_ms: u64,
}

impl Draft {
    fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(added, _)| *added)
    }
}

/// What came of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A whole catalog, not yet checked. Whether it was put together from what was known, too.
    Whole(Box<Catalog>, bool),
    /// More is to be asked for.
    More,
    /// It came before.
    Old,
    /// It does not fit what is known here by now.
    Unfit,
    /// It can't be true.
    Wrong(&'static str),
}

/// Catalogs of which some has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Drafts {
    all: BTreeMap<Line, Draft>,
}

impl Drafts {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Up to where a line has come from a node.
    pub(super) fn progress(&self, line: &Line, from: &NodeId) -> Option<Version> {
        let draft = self.all.get(line).filter(|draft| draft.from == *from)?;
        Some(Version { term: line.term, number: draft.last() })
    }

    pub(super) fn forget(&mut self, line: &Line) {
        self.all.remove(line);
    }

    /// Takes a page of a node that was asked for it.
    pub(super) fn take(&mut self, now_ms: u64, from: NodeId, page: Page, lines: &Lines) -> Came {
        let Page { catalog, entries: total, since, kept } = page;
        let after = since.map_or(0, |since| since.number);
        if let Err(wrong) = catalog.check_head().and_then(|()| catalog.check_entries(after)) {
            return Came::Wrong(wrong);
        }
        let line = catalog.line();
        let draft = self.all.get(&line).filter(|draft| draft.from == from).cloned();
        let before = draft.as_ref().map_or(0, Draft::last);
        let (mut entries, mut bytes, mut is_built_on) = (BTreeMap::new(), 0, since.is_some());
        if let Some(since) = since {
            let draft = draft.filter(|_| since.term == line.term);
            let base = Line { service: line.service.clone(), term: since.term };
            let known = lines.get(&base).filter(|known| known.version.number >= since.number);
            if let Some(draft) = draft {
                (entries, bytes, is_built_on) = (draft.entries, draft.bytes, draft.is_built_on);
            } else if let Some(known) = known {
                entries = known.entries.iter().map(|entry| (entry.added, entry.clone())).collect();
            } else {
                return Came::Unfit;
            }
            entries.retain(|added, _| *added <= since.number && kept.contains(*added));
        }
        bytes += catalog.entries.iter().map(entry_bytes).sum::<usize>();
        let mut catalog = catalog;
        entries.extend(std::mem::take(&mut catalog.entries).into_iter().map(|entry| (entry.added, entry)));
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        if total > limits::ENTRIES_MAX || bytes > limits::CATALOG_BYTES_MAX {
            return Came::Wrong("a catalog that is too large");
        }
        if entries.len() == total {
            catalog.entries = entries.into_values().collect();
            return Came::Whole(Box::new(catalog), is_built_on);
        }
        if entries.len() > total || entries.last_key_value().is_none_or(|(last, _)| *last == after) {
            return if is_built_on { Came::Unfit } else { Came::Wrong("a catalog that never ends") };
        }
        let draft = Draft { from, is_built_on, entries, bytes, at_ms: now_ms };
        if draft.last() <= before {
            return Came::Old;
        }
        if self.all.len() >= limits::DRAFTS_MAX && !self.all.contains_key(&line) {
            let oldest = self.all.iter().min_by_key(|(_, draft)| draft.at_ms).map(|(line, _)| line.clone());
            oldest.map(|line| self.all.remove(&line));
        }
        self.all.insert(line, draft);
        Came::More
    }
}
