//! Logic: what one peer is still to be sent: at most the newest snapshot of each service.

use std::collections::{BTreeMap, VecDeque};

use sustain_proto::{ServiceName, SnapshotId};

use crate::limits;

/// One peer's waiting list. The services take turns.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    newest: BTreeMap<ServiceName, SnapshotId>,
    turns: VecDeque<ServiceName>,
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

    /// The next snapshot to send.
    pub(crate) fn take(&mut self) -> Option<(ServiceName, SnapshotId)> {
        let service = self.turns.pop_front()?;
        let snapshot = self.newest.remove(&service)?;
        Some((service, snapshot))
    }

    /// A snapshot that could not be sent waits again, unless a newer one came meanwhile.
    pub(crate) fn put_back(&mut self, service: &ServiceName, snapshot: SnapshotId) {
        if !self.newest.contains_key(service) {
            self.put(service, snapshot);
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
        assert_eq!(wanted.take(), Some((service(1), snapshot(2))));
        assert_eq!(wanted.take(), None);
        wanted.put(&service(1), snapshot(3));
        wanted.put_back(&service(1), snapshot(2));
        assert_eq!(wanted.take(), Some((service(1), snapshot(3))));
        wanted.put_back(&service(1), snapshot(3));
        assert_eq!(wanted.take(), Some((service(1), snapshot(3))));
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

    proptest! {
        #[test]
        fn taken_is_the_last_put(puts in prop::collection::vec((0_u16..5, any::<u8>()), 0..60)) {
            let mut wanted = Wanted::default();
            let mut last = BTreeMap::new();
            for (number, id) in puts {
                wanted.put(&service(number), snapshot(id));
                last.insert(service(number), snapshot(id));
            }
            let taken: BTreeMap<_, _> = std::iter::from_fn(|| wanted.take()).collect();
            prop_assert_eq!(taken, last);
        }
    }
}
