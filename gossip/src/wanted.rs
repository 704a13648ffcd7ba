//! Logic: what one peer is still to be sent: of each service at most the newest snapshot, and then those that a rebase
//! has kept besides.

use std::collections::{BTreeMap, VecDeque};

use sustain_proto::{ServiceName, SnapshotId};

use crate::limits;

/// One peer's waiting list. The services take turns, and the newest snapshots go first.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    newest: BTreeMap<ServiceName, SnapshotId>,
    turns: VecDeque<ServiceName>,
    held: BTreeMap<ServiceName, Held>,
}

/// What the last rebase of a service has kept.
#[derive(Debug, Default)]
struct Held {
    waiting: VecDeque<SnapshotId>,
    sending: Option<SnapshotId>,
}

/// What is sent next, and what as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Newest(SnapshotId),
    Held(SnapshotId),
}

impl Turn {
    pub(crate) fn snapshot(self) -> SnapshotId {
        match self {
            Self::Newest(snapshot) | Self::Held(snapshot) => snapshot,
        }
    }
}

impl Wanted {
    /// A newer snapshot supersedes the one that waits. False where too many services wait already.
    pub(crate) fn put(&mut self, service: &ServiceName, snapshot: SnapshotId) -> bool {
        if let Some(waiting) = self.newest.get_mut(service) {
            *waiting = snapshot;
            return true;
        }
        if self.newest.len() >= limits::SPREAD_SERVICES_MAX {
            return false;
        }
        self.newest.insert(service.clone(), snapshot);
        self.turns.push_back(service.clone());
        true
    }

    /// What a rebase has kept supersedes what the one before has: that is gone. False where it is too much.
    pub(crate) fn put_held(&mut self, service: &ServiceName, snapshots: &[SnapshotId]) -> bool {
        let is_known = self.held.contains_key(service);
        if snapshots.is_empty() {
            self.held.remove(service);
            return true;
        }
        if !is_known && self.held.len() >= limits::SPREAD_SERVICES_MAX {
            return false;
        }
        let waiting = snapshots.iter().copied().take(limits::SPREAD_HELD_MAX).collect();
        self.held.insert(service.clone(), Held { waiting, sending: None });
        snapshots.len() <= limits::SPREAD_HELD_MAX
    }

    /// The next snapshot to send.
    pub(crate) fn take(&mut self) -> Option<(ServiceName, Turn)> {
        if let Some(service) = self.turns.pop_front() {
            let snapshot = self.newest.remove(&service)?;
            return Some((service, Turn::Newest(snapshot)));
        }
        let (service, held) = self.held.iter_mut().find(|(_, held)| !held.waiting.is_empty())?;
        held.sending = held.waiting.pop_front();
        held.sending.map(|snapshot| (service.clone(), Turn::Held(snapshot)))
    }

    /// A snapshot that could not be sent waits again, unless a newer one, or another rebase, came meanwhile.
    pub(crate) fn put_back(&mut self, service: &ServiceName, turn: Turn) {
        match turn {
            Turn::Newest(snapshot) => {
                if !self.newest.contains_key(service) {
                    self.put(service, snapshot);
                }
            }
            Turn::Held(snapshot) => {
                if let Some(held) = self.held.get_mut(service) {
                    if held.sending.take_if(|sending| *sending == snapshot).is_some() {
                        held.waiting.push_back(snapshot);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(number: u8) -> SnapshotId {
        SnapshotId::from_bytes([number; 32])
    }

    fn service(number: u16) -> ServiceName {
        ServiceName::new(format!("s{number}")).unwrap()
    }

    #[test]
    fn the_newest_supersedes_and_what_failed_does_not_replace_it() {
        let mut wanted = Wanted::default();
        wanted.put(&service(1), snapshot(1));
        wanted.put(&service(1), snapshot(2));
        assert_eq!(wanted.take(), Some((service(1), Turn::Newest(snapshot(2)))));
        assert_eq!(wanted.take(), None);
        wanted.put(&service(1), snapshot(3));
        wanted.put_back(&service(1), Turn::Newest(snapshot(2)));
        assert_eq!(wanted.take(), Some((service(1), Turn::Newest(snapshot(3)))));
        wanted.put_back(&service(1), Turn::Newest(snapshot(3)));
        assert_eq!(wanted.take(), Some((service(1), Turn::Newest(snapshot(3)))));
    }

    #[test]
    fn services_take_turns_and_are_bounded() {
        let mut wanted = Wanted::default();
        wanted.put(&service(1), snapshot(1));
        wanted.put(&service(2), snapshot(1));
        let (first, failed) = wanted.take().unwrap();
        wanted.put_back(&first, failed);
        assert_eq!(wanted.take().unwrap().0, service(2), "a service that fails does not block another");
        for number in 0..limits::SPREAD_SERVICES_MAX as u16 + 10 {
            wanted.put(&service(number), snapshot(1));
        }
        assert_eq!(wanted.newest.len(), limits::SPREAD_SERVICES_MAX);
    }

    #[test]
    fn what_a_rebase_kept_comes_after_what_is_new_and_goes_with_the_next_rebase() {
        let mut wanted = Wanted::default();
        assert!(wanted.put_held(&service(1), &[snapshot(5), snapshot(4)]));
        wanted.put(&service(1), snapshot(9));
        assert_eq!(wanted.take(), Some((service(1), Turn::Newest(snapshot(9)))));
        assert_eq!(wanted.take(), Some((service(1), Turn::Held(snapshot(5)))));
        wanted.put_back(&service(1), Turn::Held(snapshot(5)));
        assert_eq!(wanted.take(), Some((service(1), Turn::Held(snapshot(4)))));
        assert_eq!(wanted.take(), Some((service(1), Turn::Held(snapshot(5)))));
        assert!(wanted.put_held(&service(1), &[snapshot(7)]));
        wanted.put_back(&service(1), Turn::Held(snapshot(5)));
        assert_eq!(wanted.take(), Some((service(1), Turn::Held(snapshot(7)))));
        assert_eq!(wanted.take(), None);
        let many: Vec<_> = (0..=255).map(snapshot).collect();
        assert!(!wanted.put_held(&service(1), &many));
        let taken = std::iter::from_fn(|| wanted.take()).count();
        assert_eq!(taken, limits::SPREAD_HELD_MAX);
    }

    proptest! {
        #[test]
        fn taken_is_the_last_put(puts in prop::collection::vec((0_u16..5, any::<u8>()), 0..60)) {
            let mut wanted = Wanted::default();
            let mut last = BTreeMap::new();
            for (number, id) in puts {
                wanted.put(&service(number), snapshot(id));
                last.insert(service(number), snapshot(id));
            }
            let taken = std::iter::from_fn(|| wanted.take()).map(|(service, turn)| (service, turn.snapshot()));
            let taken: BTreeMap<_, _> = taken.collect();
            prop_assert_eq!(taken, last);
        }
    }
}
