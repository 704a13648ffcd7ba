//! Lists of groups that were asked for lately: making one takes reading all of what it lists.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use sustain_proto::GroupValue;

use crate::limits;
use crate::transport::links::lock;

pub(crate) type Values = Arc<Vec<GroupValue>>;

/// The lists, each by what it lists. Past [`limits::GROUPS_KEPT_MAX`] groups the oldest ones go.
#[derive(Debug)]
pub(crate) struct Lists<K> {
    kept: Mutex<Kept<K>>,
}

#[derive(Debug)]
struct Kept<K> {
    lists: BTreeMap<K, Values>,
    /// In the order in which they were made.
    order: VecDeque<K>,
    groups: usize,
}

/// An empty list takes room, too.
fn weight(values: &Values) -> usize {
    values.len().max(1)
}

impl<K> Default for Lists<K> {
    fn default() -> Self {
        Self { kept: Mutex::new(Kept { lists: BTreeMap::new(), order: VecDeque::new(), groups: 0 }) }
    }
}

impl<K: Copy + Ord> Lists<K> {
    pub(crate) fn get(&self, key: &K) -> Option<Values> {
        lock(&self.kept).lists.get(key).cloned()
    }

    pub(crate) fn put(&self, key: K, values: Values) {
        let mut kept = lock(&self.kept);
        kept.groups += weight(&values);
        match kept.lists.insert(key, values) {
            Some(before) => kept.groups -= weight(&before),
            None => kept.order.push_back(key),
        }
        while kept.groups > limits::GROUPS_KEPT_MAX {
            let Some(oldest) = kept.order.pop_front() else { break };
            let gone = kept.lists.remove(&oldest);
            kept.groups -= gone.map_or(0, |gone| weight(&gone));
        }
    }

    /// Forgets a list: what it lists is gone.
    pub(crate) fn forget(&self, key: &K) {
        let mut kept = lock(&self.kept);
        if let Some(gone) = kept.lists.remove(key) {
            kept.groups -= weight(&gone);
            kept.order.retain(|other| other != key);
        }
    }
}
