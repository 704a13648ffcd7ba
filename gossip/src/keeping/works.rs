//! Logic: in which order the disk is worked at. What concerns one part is done in the order in which it was wanted,
//! nothing of it at the same time; whatever is to be synced goes together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::keeper::Part;

/// What is to be done with a part, with whatever the driver needs for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work<O> {
    /// Get it ready to be received.
    Open(O),
    /// Sync it.
    Sync,
    /// Make it of these.
    Make(Vec<Part>),
    /// Remove it.
    Drop,
}

/// What may begin now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start<O> {
    /// Sync all these together.
    Sync(Vec<Part>),
    /// Remove all these.
    Drop(Vec<Part>),
    /// Get a part ready to be received.
    Open(Part, O),
    /// Make a part of these.
    Make(Part, Vec<Part>),
}

/// All that is to be done.
#[derive(Debug)]
pub(super) struct Works<O> {
    queues: BTreeMap<Part, VecDeque<Work<O>>>,
    /// Parts that are worked at.
    busy: BTreeSet<Part>,
    /// Parts of which others are being made, and by how many.
    read: BTreeMap<Part, usize>,
    /// What each part that is being made is made of.
    making: BTreeMap<Part, Vec<Part>>,
    is_syncing: bool,
    makes_max: usize,
}

impl<O> Works<O> {
    /// Nothing. So many parts are made at once, at most.
    pub(super) fn new(makes_max: usize) -> Self {
        Self {
            queues: BTreeMap::new(),
            busy: BTreeSet::new(),
            read: BTreeMap::new(),
            making: BTreeMap::new(),
            is_syncing: false,
            makes_max,
        }
    }

    /// Adds what is to be done with a part after everything else that was wanted of it.
    pub(super) fn push(&mut self, part: Part, work: Work<O>) {
        self.queues.entry(part).or_default().push_back(work);
    }

    fn may_begin(&self, part: &Part, work: &Work<O>) -> bool {
        !self.busy.contains(part)
            && match work {
                Work::Open(_) => true,
                Work::Sync => !self.is_syncing,
                Work::Make(_) => self.making.len() < self.makes_max,
                Work::Drop => !self.read.contains_key(part),
            }
    }

    /// What may begin now; the driver says when it is [`done`](Self::done).
    pub(super) fn begin(&mut self) -> Vec<Start<O>> {
        let (mut starts, mut syncs, mut drops) = (Vec::new(), Vec::new(), Vec::new());
        let parts: Vec<Part> = self.queues.keys().copied().collect();
        for part in parts {
            let Some(work) = self.queues.get(&part).and_then(VecDeque::front) else { continue };
            if !self.may_begin(&part, work) {
                continue;
            }
            let Some(work) = self.queues.get_mut(&part).and_then(VecDeque::pop_front) else { continue };
            self.busy.insert(part);
            match work {
                Work::Sync => syncs.push(part),
                Work::Drop => drops.push(part),
                Work::Make(from) => {
                    from.iter().for_each(|part| *self.read.entry(*part).or_default() += 1);
                    self.making.insert(part, from.clone());
                    starts.push(Start::Make(part, from));
                }
                Work::Open(opening) => starts.push(Start::Open(part, opening)),
            }
        }
        if !drops.is_empty() {
            starts.push(Start::Drop(drops));
        }
        if !syncs.is_empty() {
            self.is_syncing = true;
            starts.push(Start::Sync(syncs));
        }
        starts
    }

    /// What was begun with a part has ended, however it did.
    pub(super) fn done(&mut self, part: &Part) {
        self.busy.remove(part);
        for from in self.making.remove(part).unwrap_or_default() {
            if let Some(count) = self.read.get_mut(&from) {
                *count -= 1;
                if *count == 0 {
                    self.read.remove(&from);
                }
            }
        }
        if self.queues.get(part).is_some_and(VecDeque::is_empty) {
            self.queues.remove(part);
        }
    }

    /// These were synced together, or could not be.
    pub(super) fn synced(&mut self, parts: &[Part]) {
        self.is_syncing = false;
        parts.iter().for_each(|part| self.done(part));
    }
}

#[cfg(test)]
mod tests {
    use sustain_proto::PackId;

    use super::*;
    use crate::keeper::Which;

    fn part(number: u8) -> Part {
        Part { pack: PackId::from_bytes([number; 32]), which: Which::Whole }
    }

    fn works() -> Works<()> {
        Works::new(1)
    }

    #[test]
    fn what_waits_is_synced_together_when_those_before_are() {
        let mut works = works();
        works.push(part(1), Work::Sync);
        assert_eq!(works.begin(), [Start::Sync(vec![part(1)])]);
        works.push(part(2), Work::Sync);
        works.push(part(3), Work::Sync);
        assert_eq!(works.begin(), []);
        works.synced(&[part(1)]);
        assert_eq!(works.begin(), [Start::Sync(vec![part(2), part(3)])]);
        works.synced(&[part(2), part(3)]);
        assert!(works.queues.is_empty() && works.busy.is_empty());
    }

    #[test]
    fn a_part_is_dropped_after_it_is_synced_and_received_anew_after_that() {
        let mut works = works();
        for work in [Work::Sync, Work::Drop, Work::Open(())] {
            works.push(part(1), work);
        }
        works.push(part(2), Work::Drop);
        assert_eq!(works.begin(), [Start::Drop(vec![part(2)]), Start::Sync(vec![part(1)])]);
        works.synced(&[part(1)]);
        assert_eq!(works.begin(), [Start::Drop(vec![part(1)])]);
        assert_eq!(works.begin(), []);
        works.done(&part(1));
        assert_eq!(works.begin(), [Start::Open(part(1), ())]);
    }

    #[test]
    fn what_another_part_is_made_of_goes_when_that_is_made() {
        let mut works = works();
        works.push(part(1), Work::Make(vec![part(2), part(3)]));
        works.push(part(4), Work::Make(vec![part(2)]));
        assert_eq!(works.begin(), [Start::Make(part(1), vec![part(2), part(3)])]);
        works.push(part(2), Work::Drop);
        assert_eq!(works.begin(), [], "one is made at a time, and that needs what is to go");
        works.done(&part(1));
        // It was wanted first, but nobody has begun to read.
        let both = [Start::Make(part(4), vec![part(2)]), Start::Drop(vec![part(2)])];
        assert_eq!(works.begin(), both);
    }
}
