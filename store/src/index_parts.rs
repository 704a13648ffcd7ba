//! An index in parts. Pure.
//!
//! A delta's index says what differs from the base, which after some hundred snapshots is much; what changed
//! since the snapshot before is little. So an index is in parts that snapshots share: a new one adds a part with
//! what changed, and takes in those before it that are less than twice as large. Each entry is thus written again
//! only when its part doubles, and there are as many parts as an index has doublings, as in a log-structured merge
//! tree (O'Neil et al., 1996).

use std::sync::Arc;

use sustain_proto::limits::INDEX_PARTS_MAX;
use sustain_proto::{IndexRoot, RegionIndex, SnapshotIndex};

/// A part that is stored.
#[derive(Debug, Clone)]
pub(crate) struct IndexPart {
    pub(crate) root: IndexRoot,
    pub(crate) index: Arc<SnapshotIndex>,
}

fn entries(index: &SnapshotIndex) -> usize {
    index.regions.values().map(RegionIndex::len).sum()
}

/// Adds what an older part says of positions of which this one says nothing.
fn take_in(newer: &mut SnapshotIndex, older: &SnapshotIndex) {
    for (name, chunks) in &older.regions {
        let newer = newer.regions.entry(name.clone()).or_default();
        *newer = chunks.overlaid_by(newer);
    }
}

/// What parts say together, oldest first.
pub(crate) fn merged<'a>(parts: impl DoubleEndedIterator<Item = &'a SnapshotIndex>) -> SnapshotIndex {
    let mut all = SnapshotIndex::default();
    parts.rev().for_each(|part| take_in(&mut all, part));
    all
}

/// What is to be stored for a change that follows these parts: those of them that stay, and the new one, if there is
/// anything to say.
pub(crate) fn extend(
    mut parts: Vec<IndexPart>,
    change: SnapshotIndex,
) -> (Vec<IndexPart>, Option<SnapshotIndex>) {
    if entries(&change) == 0 {
        return (parts, None);
    }
    let mut new = change;
    while let Some(last) = parts.pop() {
        if entries(&last.index) >= 2 * entries(&new) && parts.len() + 1 < INDEX_PARTS_MAX {
            parts.push(last);
            break;
        }
        take_in(&mut new, &last.index);
    }
    (parts, Some(new))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sustain_proto::{ChunkId, RegionName};

    use super::*;

    fn changes() -> impl Strategy<Value = Vec<Vec<(u64, u8)>>> {
        let change = prop::collection::vec((0_u64..200, 0_u8..9), 0..40);
        prop::collection::vec(change, 0..60)
    }

    fn index(change: &[(u64, u8)]) -> SnapshotIndex {
        let chunks = change.iter().map(|(at, id)| (*at, (*id > 0).then(|| ChunkId::from_bytes([*id; 32]))));
        SnapshotIndex { regions: [(RegionName::new("ram".to_owned()).unwrap(), chunks.collect())].into() }
    }

    proptest! {
        #[test]
        fn parts_say_what_all_changes_together_say(changes in changes()) {
            let mut parts = Vec::new();
            let mut all = SnapshotIndex::default();
            let (mut written, mut changed) = (0, 0);
            for change in &changes {
                let change = index(change);
                let mut newest = change.clone();
                take_in(&mut newest, &all);
                all = newest;
                changed += entries(&change);
                let (mut kept, new) = extend(parts, change);
                if let Some(new) = new {
                    written += entries(&new);
                    let root = new.encode().unwrap().0;
                    kept.push(IndexPart { root, index: Arc::new(new) });
                }
                parts = kept;
                let together = merged(parts.iter().map(|part| part.index.as_ref()));
                prop_assert_eq!(entries(&together), entries(&all));
                prop_assert!(entries(&all) == 0 || together == all);
                let sizes: Vec<usize> = parts.iter().map(|part| entries(&part.index)).collect();
                prop_assert!(sizes.windows(2).all(|pair| pair[0] >= 2 * pair[1]), "{:?}", sizes);
            }
            // 200 positions double less than eight times.
            prop_assert!(written <= 9 * changed);
        }
    }
}
