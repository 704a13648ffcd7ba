//! Fragments that are made when they are read, of a pack that is here: who has the pack need not store them.

use std::fmt;

use sustain_proto::{Cut, GroupHasher, GroupList, PackId};

use super::FragmentError;
use crate::coding::Recipe;
use crate::store::Store;
use crate::{PackReader, limits};

/// A fragment of a pack that is here, made as it is read. What it gives is as good as the pack's file, which is not
/// compared with its id here: whoever receives it compares each group.
pub struct CutReader {
    reader: PackReader,
    cut: Cut,
    recipe: Recipe,
}

impl fmt::Debug for CutReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutReader").field("cut", &self.cut).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a fragment of a pack that is here.
    ///
    /// # Errors
    /// If the pack is not here, or the cut has no such fragment.
    pub fn open_cut(&self, pack: PackId, cut: Cut, index: u8) -> Result<CutReader, FragmentError> {
        cut.check()?;
        let shards: Vec<u8> = (0..cut.needed).collect();
        let recipe = self.shared.codes.of(&cut).recipe(&shards, &[index]);
        let recipe = recipe.map_err(|_| FragmentError::NoIndex { index, total: cut.total })?;
        Ok(CutReader { reader: self.read_pack(pack)?, cut, recipe })
    }
}

impl CutReader {
    /// Bytes of the fragment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cut.fragment_bytes(self.reader.len())
    }

    /// Fills the buffer from this offset. Costs the reading of `needed` times as much.
    ///
    /// # Errors
    /// If it ends before, or the disk fails.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), FragmentError> {
        let extent_bytes = u64::from(self.cut.extent_bytes);
        let full_shard = self.cut.shard_bytes(extent_bytes);
        let needed = usize::from(self.cut.needed);
        let (mut at, mut rest, mut shards) = (offset, buf, Vec::new());
        while !rest.is_empty() {
            let start = at / full_shard * extent_bytes;
            let bytes = self.reader.len().saturating_sub(start).min(extent_bytes);
            let shard = self.cut.shard_bytes(bytes);
            let inside = at % full_shard;
            let part = shard.saturating_sub(inside).min(rest.len() as u64) as usize;
            if part == 0 {
                return Err(crate::CodingError::Lengths.into());
            }
            let (now, later) = rest.split_at_mut(part);
            shards.clear();
            shards.resize(part * needed, 0);
            for (number, input) in shards.chunks_exact_mut(part).enumerate() {
                let first = number as u64 * shard + inside;
                // What is behind the extent's end counts as zeros.
                let there = bytes.saturating_sub(first).min(part as u64) as usize;
                self.reader.read_at(start + first.min(bytes), &mut input[..there])?;
            }
            let inputs: Vec<&[u8]> = shards.chunks_exact(part).collect();
            self.recipe.apply(&inputs, &mut [now])?;
            (at, rest) = (at + part as u64, later);
        }
        Ok(())
    }

    /// The list of its groups, for which all of the fragment is made.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn groups(&self) -> Result<GroupList, FragmentError> {
        let mut hasher = GroupHasher::default();
        let mut buffer = vec![0; limits::CODED_BYTES as usize / usize::from(self.cut.needed)];
        let mut at = 0;
        while at < self.bytes() {
            let part = (self.bytes() - at).min(buffer.len() as u64) as usize;
            self.read_at(at, &mut buffer[..part])?;
            hasher.update(&buffer[..part]);
            at += part as u64;
        }
        Ok(hasher.finish())
    }
}
