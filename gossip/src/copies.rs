//! Logic: on which other nodes a snapshot is synced, and when that makes it durable (P34).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sustain_proto::{NodeId, ServiceName, SnapshotId};

use crate::limits;

/// A snapshot that has just become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Durable {
    pub(crate) snapshot: SnapshotId,
    /// How many losses it survives.
    pub(crate) tolerance: u32,
    /// On how many other nodes it is synced.
    pub(crate) copies: usize,
}

#[derive(Debug)]
struct Counted {
    snapshot: SnapshotId,
    tolerance: u32,
    needed: usize,
    said: bool,
    synced: BTreeSet<NodeId>,
}

impl Counted {
    /// Says it once.
    fn judge(&mut self) -> Option<Durable> {
        if self.said || self.synced.len() < self.needed {
            return None;
        }
        self.said = true;
        Some(Durable { snapshot: self.snapshot, tolerance: self.tolerance, copies: self.synced.len() })
    }
}

/// Counts copies of the newest snapshots of each service.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    services: BTreeMap<ServiceName, VecDeque<Counted>>,
}

impl Copies {
    /// Begins to count. Asked again for the same snapshot, only a higher tolerance makes a difference.
    pub(crate) fn expect(
        &mut self,
        service: &ServiceName,
        snapshot: SnapshotId,
        tolerance: u32,
        needed: usize,
    ) -> Option<Durable> {
        let list = self.services.entry(service.clone()).or_default();
        if let Some(counted) = list.iter_mut().find(|counted| counted.snapshot == snapshot) {
            if tolerance > counted.tolerance {
                (counted.tolerance, counted.needed, counted.said) = (tolerance, needed, false);
            }
            return counted.judge();
        }
        if list.len() == limits::COUNTED_SNAPSHOTS_MAX {
            list.pop_front();
        }
        list.push_back(Counted { snapshot, tolerance, needed, said: false, synced: BTreeSet::new() });
        None
    }

    /// Another node has synced a snapshot.
    pub(crate) fn synced(
        &mut self,
        service: &ServiceName,
        snapshot: SnapshotId,
        node: NodeId,
    ) -> Option<Durable> {
        let list = self.services.get_mut(service)?;
        let counted = list.iter_mut().find(|counted| counted.snapshot == snapshot)?;
        counted.synced.insert(node);
        counted.judge()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(number: u8) -> SnapshotId {
        SnapshotId::from_bytes([number; 32])
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn mail() -> ServiceName {
        ServiceName::new("mail").unwrap()
    }

    #[test]
    fn the_same_node_twice_is_one_copy() {
        let mut copies = Copies::default();
        copies.expect(&mail(), snapshot(1), 1, 2);
        assert_eq!(copies.synced(&mail(), snapshot(1), node(1)), None);
        assert_eq!(copies.synced(&mail(), snapshot(1), node(1)), None);
        let durable = Durable { snapshot: snapshot(1), tolerance: 1, copies: 2 };
        assert_eq!(copies.synced(&mail(), snapshot(1), node(2)), Some(durable));
        assert_eq!(copies.synced(&mail(), snapshot(1), node(3)), None, "said once");
    }

    #[test]
    fn a_superseded_snapshot_still_counts() {
        let mut copies = Copies::default();
        copies.expect(&mail(), snapshot(1), 1, 2);
        copies.synced(&mail(), snapshot(1), node(1));
        copies.expect(&mail(), snapshot(2), 1, 2);
        assert!(copies.synced(&mail(), snapshot(1), node(2)).is_some());
    }

    #[test]
    fn a_higher_tolerance_is_judged_anew() {
        let mut copies = Copies::default();
        copies.expect(&mail(), snapshot(1), 0, 1);
        assert!(copies.synced(&mail(), snapshot(1), node(1)).is_some());
        assert_eq!(copies.expect(&mail(), snapshot(1), 0, 1), None);
        assert_eq!(copies.expect(&mail(), snapshot(1), 1, 2), None);
        assert_eq!(copies.synced(&mail(), snapshot(1), node(2)).map(|durable| durable.tolerance), Some(1));
    }

    proptest! {
        /// However syncs arrive: durable is said once, exactly when enough distinct nodes have synced.
        #[test]
        fn said_once_and_not_early(tolerance in 0_u32..5, order in prop::collection::vec(0_u8..8, 0..40)) {
            let needed = tolerance as usize + 1;
            let mut copies = Copies::default();
            copies.expect(&mail(), snapshot(1), tolerance, needed);
            let mut distinct = BTreeSet::new();
            let mut said = 0;
            for number in order {
                let news = distinct.insert(number);
                let durable = copies.synced(&mail(), snapshot(1), node(number));
                prop_assert_eq!(durable.is_some(), news && distinct.len() == needed);
                said += usize::from(durable.is_some());
            }
            prop_assert_eq!(said, usize::from(distinct.len() >= needed));
        }

        #[test]
        fn memory_is_bounded(count in 0_usize..200) {
            let mut copies = Copies::default();
            for number in 0..count {
                copies.expect(&mail(), SnapshotId::from_bytes([number as u8; 32]), 1, 2);
            }
            let kept = copies.services.get(&mail()).map_or(0, VecDeque::len);
            prop_assert_eq!(kept, count.min(limits::COUNTED_SNAPSHOTS_MAX));
        }
    }
}
