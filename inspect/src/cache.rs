//! Logic: a cache of decoded chunks that holds at most so many bytes, and forgets what was used longest ago.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sustain_proto::ChunkId;

/// Chunks by their id, so that a chunk that several snapshots have is here once.
#[derive(Debug)]
pub(crate) struct ChunkCache {
    chunks: HashMap<ChunkId, Cached>,
    /// By the time of last use.
    order: BTreeMap<u64, ChunkId>,
    bytes: usize,
    bytes_max: usize,
    uses: u64,
}

#[derive(Debug)]
struct Cached {
    plain: Arc<[u8]>,
    used: u64,
}

impl ChunkCache {
    /// An empty one.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { chunks: HashMap::new(), order: BTreeMap::new(), bytes: 0, bytes_max, uses: 0 }
    }

    /// The chunk, if it is here.
    pub(crate) fn get(&mut self, id: &ChunkId) -> Option<Arc<[u8]>> {
        let cached = self.chunks.get_mut(id)?;
        self.uses += 1;
        self.order.remove(&cached.used);
        self.order.insert(self.uses, *id);
        cached.used = self.uses;
        Some(cached.plain.clone())
    }

    /// Whether the chunk is here; does not count as a use.
    pub(crate) fn has(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    /// Keeps a chunk, and forgets others for it.
    pub(crate) fn put(&mut self, id: ChunkId, plain: Arc<[u8]>) {
        if plain.len() > self.bytes_max || self.get(&id).is_some() {
            return;
        }
        while self.bytes + plain.len() > self.bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(gone) = self.chunks.remove(&oldest) {
                self.bytes -= gone.plain.len();
            }
        }
        self.uses += 1;
        self.bytes += plain.len();
        self.order.insert(self.uses, id);
        self.chunks.insert(id, Cached { plain, used: self.uses });
    }

    /// Bytes of the chunks that are here.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u8) -> ChunkId {
        ChunkId::from_bytes([number; 32])
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut cache = ChunkCache::new(3);
        for number in 0..3 {
            cache.put(id(number), vec![number].into());
        }
        assert_eq!(cache.get(&id(0)).as_deref(), Some(&[0][..]));
        cache.put(id(3), vec![3].into());
        assert_eq!([0, 1, 2, 3].map(|number| cache.has(&id(number))), [true, false, true, true]);
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_its_bound_and_never_another_chunk(
            uses in proptest::collection::vec((0_u8..20, 0_usize..40, any::<bool>()), 0..200),
        ) {
            let mut cache = ChunkCache::new(100);
            for (number, bytes, put) in uses {
                if put {
                    cache.put(id(number), vec![number; bytes].into());
                } else if let Some(plain) = cache.get(&id(number)) {
                    prop_assert!(plain.iter().all(|byte| *byte == number));
                }
                prop_assert!(cache.bytes() <= 100);
                prop_assert_eq!(cache.bytes(), cache.chunks.values().map(|kept| kept.plain.len()).sum::<usize>());
                prop_assert_eq!(cache.order.len(), cache.chunks.len());
            }
        }
    }
}
