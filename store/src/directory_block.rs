//! Reading the entry of a block in a pack's directory, within limits. Pure.

use sustain_proto::IndexRoot;
use sustain_proto::limits::INDEX_BYTES_MAX;
use sustain_seal::TAG_BYTES;

use super::{Block, PackDirectory};
use crate::block::{BLOCK_BYTES_MAX, Encoding, StoredChunk};
use crate::entries::{KIND_INDEX, decode_chunk};
use crate::limits::BLOCK_CHUNKS_MAX;
use crate::pack_ends::Reader;

/// Reads a block's entry, and returns how many bytes the block has in the file.
pub(super) fn decode(
    reader: &mut Reader<'_>,
    directory: &mut PackDirectory,
    offset: u32,
) -> Result<u64, String> {
    let [code, count] = reader.take()?;
    let encoding = match code & !KIND_INDEX {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        2 => Encoding::Delta,
        _ => return Err(format!("a block is of the unknown kind {code}")),
    };
    let stored_bytes = reader.number()?;
    let first = directory.chunks.len() as u32;
    let mut block =
        Block { encoding, offset, stored_bytes, plain_bytes: 0, first, chunks: count, alone: true };
    let mut refers = false;
    if code & KIND_INDEX != 0 {
        let root = IndexRoot::from_bytes(reader.take()?);
        block.plain_bytes = reader.number()?;
        check_lengths(&block, INDEX_BYTES_MAX)?;
        if count != 0 {
            return Err("an index has chunks".to_owned());
        }
        directory.push_index(block, root);
    } else {
        if !(1..=BLOCK_CHUNKS_MAX).contains(&count.into()) {
            return Err(format!("a block has {count} chunks, at most {BLOCK_CHUNKS_MAX} are allowed"));
        }
        let chunks = (0..count).map(|_| decode_chunk(reader)).collect::<Result<Vec<_>, _>>()?;
        block.plain_bytes = chunks.iter().map(StoredChunk::data_bytes).sum::<usize>() as u32;
        check_lengths(&block, BLOCK_BYTES_MAX)?;
        refers = chunks.iter().any(|chunk| chunk.reference.is_some());
        directory.push_chunks(block, &chunks);
    }
    if encoding == Encoding::Delta && !refers {
        return Err("a block has a dictionary of nothing".to_owned());
    }
    Ok(stored_bytes.into())
}

fn check_lengths(block: &Block, plain_bytes_max: usize) -> Result<(), String> {
    let Block { plain_bytes, stored_bytes, .. } = *block;
    let sealed = stored_bytes.checked_sub(TAG_BYTES as u32);
    if plain_bytes as usize > plain_bytes_max || sealed.is_none_or(|bytes| bytes > plain_bytes) {
        return Err("a block has an impossible length".to_owned());
    }
    Ok(())
}
