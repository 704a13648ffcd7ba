//! Decoded blocks that were needed to read others: what is referred to once is referred to again.

use std::fmt;
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use sustain_proto::PackId;

use crate::limits;

type Key = (PackId, u32);

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Key, Arc<Vec<u8>>> for Bytes {
    fn weight(&self, _: &Key, block: &Arc<Vec<u8>>) -> u64 {
        // An empty block takes its place in the table too.
        block.len() as u64 + 64
    }
}

/// Blocks by their pack and number there, bounded in bytes.
pub(crate) struct BlockCache {
    blocks: Cache<Key, Arc<Vec<u8>>, Bytes>,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache").field("bytes", &self.blocks.weight()).finish_non_exhaustive()
    }
}

impl Default for BlockCache {
    fn default() -> Self {
        Self { blocks: Cache::with_weighter(limits::BLOCK_CACHE_ITEMS, limits::BLOCK_CACHE_BYTES, Bytes) }
    }
}

impl BlockCache {
    /// For one push by so many threads.
    pub(crate) fn of_push(workers: u64) -> Self {
        let bytes = (workers * limits::PUSH_CACHE_BYTES).min(limits::BLOCK_CACHE_BYTES);
        // It is in as many parts as have some tens of blocks each, and a block has to fit a part many times.
        let items = bytes as usize / limits::PUSH_CACHE_BYTES as usize * limits::PUSH_CACHE_ITEMS;
        let mut options = OptionsBuilder::new();
        options.shards(1).estimated_items_capacity(items).weight_capacity(bytes).hot_allocation(0.1);
        let blocks = match options.build() {
            Ok(options) => Cache::with_options(options, Bytes, Default::default(), Default::default()),
            Err(_) => Cache::with_weighter(items, bytes, Bytes),
        };
        Self { blocks }
    }

    pub(crate) fn get(&self, pack: PackId, block: u32) -> Option<Arc<Vec<u8>>> {
        self.blocks.get(&(pack, block))
    }

    pub(crate) fn put(&self, pack: PackId, block: u32, bytes: Arc<Vec<u8>>) {
        self.blocks.insert((pack, block), bytes);
    }

    /// Forgets everything: one of the blocks may be wrong.
    pub(crate) fn clear(&self) {
        self.blocks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_in_bytes() {
        let cache = BlockCache::default();
        let pack = PackId::from_bytes([1; 32]);
        for block in 0..4 * (limits::BLOCK_CACHE_BYTES >> 20) as u32 {
            cache.put(pack, block, Arc::new(vec![0; 1 << 20]));
        }
        assert!(cache.blocks.weight() <= limits::BLOCK_CACHE_BYTES);
        assert!(cache.blocks.weight() > limits::BLOCK_CACHE_BYTES / 2);
        cache.clear();
        assert!(cache.get(pack, 0).is_none());
    }
}
