//! What is encoded decodes to the same value, and ids are those of the bytes.

use proptest::prelude::*;

use sustain_proto::{IndexRoot, Manifest, SnapshotId, SnapshotIndex};

use crate::strategies;

proptest! {
    #[test]
    fn manifests(manifest in strategies::manifest()) {
        let (id, bytes) = manifest.encode().unwrap();
        let (decoded_id, decoded) = Manifest::decode(&bytes).unwrap();
        prop_assert_eq!(decoded, manifest);
        prop_assert_eq!(decoded_id, id);
        prop_assert_eq!(id, SnapshotId::of_manifest(&bytes));
    }

    #[test]
    fn indexes(index in strategies::index()) {
        let (root, bytes) = index.encode().unwrap();
        prop_assert_eq!(SnapshotIndex::decode(&bytes).unwrap(), index);
        prop_assert_eq!(root, IndexRoot::of(&bytes));
    }

    #[test]
    fn indexes_and_manifests_as_json(index in strategies::index(), manifest in strategies::manifest()) {
        let text = serde_json::to_string(&index).unwrap();
        prop_assert_eq!(serde_json::from_str::<SnapshotIndex>(&text).unwrap(), index);
        let text = serde_json::to_string(&manifest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    /// The hash of the contents doesn't see which positions are written as zero and which are left out,
    /// and does see every chunk.
    #[test]
    fn content_hashes_see_contents_only(index in strategies::index()) {
        let regions: Vec<_> = index
            .regions
            .keys()
            .map(|name| sustain_proto::Region { name: name.clone(), bytes: 1 << 40 })
            .collect();
        let hash = index.content_hash(&regions);

        let mut without_zeros = index.clone();
        for region in without_zeros.regions.values_mut() {
            region.retain(|_, chunk| chunk.is_some());
        }
        prop_assert_eq!(without_zeros.content_hash(&regions), hash);

        for name in index.regions.keys() {
            for (position, chunk) in index.regions[name].iter() {
                if chunk.is_some() {
                    let mut changed = index.clone();
                    changed.regions.get_mut(name).unwrap().insert(position, None);
                    prop_assert_ne!(changed.content_hash(&regions), hash);
                }
            }
        }
        for position in 0..regions.len() {
            let mut grown = regions.clone();
            grown[position].bytes += 1;
            prop_assert_ne!(index.content_hash(&grown), hash);
        }
    }
}
