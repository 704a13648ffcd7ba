//! A chunk's entry in a pack's directory, as [`directory`](crate::directory) describes it. Pure.

use sustain_proto::ChunkId;
use sustain_proto::limits::CHUNK_BYTES;

use crate::block::StoredChunk;
use crate::pack_ends::Reader;
use crate::pages::{PAGES_MAX, Page, PageMap, SharedPage};

/// A chunk's entry at its shortest, and at its longest.
const CHUNK_BYTES_MIN: usize = 33;
pub(crate) const CHUNK_ENTRY_BYTES_MAX: usize = 73 + 1 + PAGES_MAX * 34;

const FLAG_FULL: u8 = 1;
const FLAG_ALL_DATA: u8 = 2;
const FLAG_REFERS: u8 = 4;
const FLAG_SHARES: u8 = 8;
const FLAGS: u8 = FLAG_FULL | FLAG_ALL_DATA | FLAG_REFERS | FLAG_SHARES;

fn flags(chunk: &StoredChunk) -> u8 {
    let bytes = chunk.plain_bytes as usize;
    let mut flags = 0;
    if bytes == CHUNK_BYTES {
        flags |= FLAG_FULL;
    }
    if chunk.pages == PageMap::all_data(bytes) {
        flags |= FLAG_ALL_DATA;
    }
    if chunk.reference.is_some() {
        flags |= FLAG_REFERS;
    }
    if !chunk.shared.is_empty() {
        flags |= FLAG_SHARES;
    }
    flags
}

/// The chunks that shared pages are stored with, each once.
fn owners(shared: &[SharedPage]) -> Vec<ChunkId> {
    let mut owners: Vec<ChunkId> = Vec::new();
    for page in shared {
        if !owners.contains(&page.chunk) {
            owners.push(page.chunk);
        }
    }
    owners
}

/// Bytes of a chunk's entry.
pub(crate) fn chunk_entry_bytes(chunk: &StoredChunk) -> usize {
    let flags = flags(chunk);
    let field =
        |flag: u8, present: bool, bytes: usize| if (flags & flag != 0) == present { bytes } else { 0 };
    CHUNK_BYTES_MIN
        + field(FLAG_FULL, false, 4)
        + field(FLAG_ALL_DATA, false, 4)
        + field(FLAG_REFERS, true, 32)
        + field(FLAG_SHARES, true, 1 + 32 * owners(&chunk.shared).len() + 2 * chunk.shared.len())
}

pub(crate) fn encode_chunk(chunk: &StoredChunk, bytes: &mut Vec<u8>) {
    let flags = flags(chunk);
    bytes.extend_from_slice(chunk.id.as_bytes());
    bytes.push(flags);
    if flags & FLAG_FULL == 0 {
        bytes.extend_from_slice(&chunk.plain_bytes.to_le_bytes());
    }
    if flags & FLAG_ALL_DATA == 0 {
        bytes.extend_from_slice(&chunk.pages.bits().to_le_bytes());
    }
    if let Some(reference) = chunk.reference {
        bytes.extend_from_slice(reference.as_bytes());
    }
    if flags & FLAG_SHARES != 0 {
        let owners = owners(&chunk.shared);
        // At most as many as a chunk has pages.
        bytes.push(owners.len() as u8);
        owners.iter().for_each(|owner| bytes.extend_from_slice(owner.as_bytes()));
        for page in &chunk.shared {
            let owner = owners.iter().take_while(|owner| **owner != page.chunk).count();
            bytes.extend_from_slice(&[owner as u8, page.page]);
        }
    }
}

pub(crate) fn decode_chunk(reader: &mut Reader<'_>) -> Result<StoredChunk, String> {
    let id = ChunkId::from_bytes(reader.take()?);
    let [flags] = reader.take()?;
    let plain_bytes = if flags & FLAG_FULL != 0 { CHUNK_BYTES as u32 } else { reader.number()? };
    let bytes = plain_bytes as usize;
    if bytes == 0 || bytes > CHUNK_BYTES || flags & !FLAGS != 0 {
        return Err("a chunk has an impossible length".to_owned());
    }
    let pages = if flags & FLAG_ALL_DATA != 0 {
        PageMap::all_data(bytes)
    } else {
        PageMap::from_bits(reader.number()?)
    };
    let refers = flags & FLAG_REFERS != 0;
    let reference = if refers { Some(ChunkId::from_bytes(reader.take()?)) } else { None };
    pages.check(bytes, refers)?;
    let count = pages.count(Page::Shared);
    if (count > 0) != (flags & FLAG_SHARES != 0) {
        return Err("a chunk's shared pages are not where they should be".to_owned());
    }
    let shared = if count > 0 { decode_shared(reader, count)? } else { Vec::new() };
    Ok(StoredChunk { id, plain_bytes, pages, reference, shared })
}

fn decode_shared(reader: &mut Reader<'_>, count: usize) -> Result<Vec<SharedPage>, String> {
    let [owners] = reader.take()?;
    if usize::from(owners) > count {
        return Err("a chunk shares pages with more chunks than it has pages".to_owned());
    }
    let owners: Vec<ChunkId> =
        (0..owners).map(|_| reader.take().map(ChunkId::from_bytes)).collect::<Result<_, _>>()?;
    let page = |_| {
        let [owner, page] = reader.take()?;
        let chunk = *owners.get(usize::from(owner)).ok_or("a chunk shares a page with no chunk")?;
        if usize::from(page) < PAGES_MAX {
            Ok(SharedPage { chunk, page })
        } else {
            Err("a chunk shares a page past another's end".to_owned())
        }
    };
    (0..count).map(page).collect()
}
