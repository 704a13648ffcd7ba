//! A pack's directory: which blocks it holds, and what is in them. Pure: bytes in, values out.
//!
//! A pack is a header, the blocks' stored bytes back to back, the directory, and a trailer. The directory is sealed as
//! one, and so is each block:
//!
//! ```text
//! header    "SPCK" version(u16) zero(u16)
//! blocks    stored bytes, no gaps: a block begins where the one before ends
//! directory blocks(u32) chunks(u32)
//!           per block: kind and encoding(u8) chunks(u8) stored bytes(u32), then
//!             per chunk: id(32) flags(u8) [plain bytes(u32)] [pages(u32)] [reference(32)]
//!               [owners(u8) ids(32 each), then per shared page: owner(u8) page(u8)]
//!             or, of an index: root(32) plain bytes(u32)
//! trailer   directory's offset(u64) key's id(8) directory's nonce(12) checksum of these(4) "KCPS"
//! ```
//! All numbers are little endian. Stored bytes count what sealing adds. What a block is sealed as (the associated data)
//! is "block" and its entry without its stored bytes; a directory, "directory", its offset and the key's id. A block's
//! nonce follows from that, so it is not stored. Since offsets are sums of lengths, no directory can point elsewhere.
//! A chunk whose flags say so has 64 KiB, or nothing but data pages, and then the field is left out; likewise for what
//! it refers to, and the chunks that its shared pages are stored with.

use sustain_proto::limits::{CHUNK_BYTES, PACK_RECORDS_MAX};
use sustain_proto::{ChunkId, IndexRoot};
use sustain_seal::{TAG_BYTES, TooLong};

use crate::block::{BlockContent, Encoding, NewBlock, StoredChunk};
use crate::entries::{
    BLOCK_BYTES, INDEX_ENTRY_BYTES, KIND_INDEX, block_context, chunk_entry_bytes, encode_chunk, encode_index,
    encoded_bytes_max, encoding_code,
};
use crate::pack_ends::{HEADER_BYTES, Reader, TRAILER_BYTES, Trailer};
use crate::pages::{Page, PageMap, SharedPage};
use crate::service_key::ServiceKey;

/// Bytes of a directory before its entries.
const COUNTS_BYTES: usize = 8;

/// What is said of a chunk, in a list of those of which something is said.
fn said<T: Copy>(list: &[(u32, T)], chunk: u32) -> Option<T> {
    list.binary_search_by_key(&chunk, |(chunk, _)| *chunk).ok().map(|found| list[found].1)
}

/// Most bytes of a directory, sealed.
pub(crate) const SEALED_BYTES_MAX: u64 =
    (COUNTS_BYTES + TAG_BYTES) as u64 + encoded_bytes_max(PACK_RECORDS_MAX as u32, PACK_RECORDS_MAX as u32);

/// One block of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) encoding: Encoding,
    /// Where its stored bytes begin in the file.
    pub(crate) offset: u32,
    /// How many they are, sealed.
    pub(crate) stored_bytes: u32,
    /// Bytes that it expands to.
    pub(crate) plain_bytes: u32,
    /// Number of its first chunk in the pack.
    first: u32,
    /// How many chunks it has; none if it is an index.
    chunks: u8,
    /// None of its chunks refers to another, or shares pages that are stored with another.
    alone: bool,
}

/// What there is to say of any chunk: packs may have many, and of most there is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PackedChunk {
    id: ChunkId,
    pages: PageMap,
}

/// All blocks of a pack, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackDirectory {
    /// What all of the pack is sealed under.
    key: ServiceKey,
    blocks: Vec<Block>,
    chunks: Vec<PackedChunk>,
    /// The chunks of less than [`CHUNK_BYTES`], and how many they have.
    short: Vec<(u32, u32)>,
    /// The chunks that refer to others.
    references: Vec<(u32, ChunkId)>,
    /// The chunks that share pages, and where these begin among those of all chunks.
    sharing: Vec<(u32, u32)>,
    /// The shared pages of all chunks, one after the other.
    shared: Vec<SharedPage>,
    /// The indexes, with their blocks' numbers.
    indexes: Vec<(IndexRoot, u32)>,
    /// Bytes of the entries, encoded.
    encoded_bytes: usize,
}

/// What a directory at this offset is sealed as.
pub(crate) fn directory_context(offset: u64, key: &ServiceKey) -> Vec<u8> {
    [b"directory".as_slice(), &offset.to_le_bytes(), key.id().as_bytes()].concat()
}

impl PackDirectory {
    /// The directory of a pack that has nothing yet, and is to be sealed under this key.
    pub(crate) fn new(key: ServiceKey) -> Self {
        Self {
            key,
            blocks: Vec::new(),
            chunks: Vec::new(),
            short: Vec::new(),
            references: Vec::new(),
            sharing: Vec::new(),
            shared: Vec::new(),
            indexes: Vec::new(),
            encoded_bytes: 0,
        }
    }

    /// What all of the pack is sealed under.
    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Opens the stored bytes of a block. They are then as its encoding says.
    pub(crate) fn open_block(&self, block: u32, stored: &mut Vec<u8>) -> Result<(), &'static str> {
        let encoding = self.blocks[block as usize].encoding;
        let context = match self.indexes.binary_search_by_key(&block, |(_, block)| *block) {
            Ok(index) => {
                let plain_bytes = self.blocks[block as usize].plain_bytes;
                block_context(BlockContent::Index(self.indexes[index].0, plain_bytes), encoding)
            }
            Err(_) => {
                let chunks: Vec<StoredChunk> = self.chunks_of(block).map(|chunk| self.chunk(chunk)).collect();
                block_context(BlockContent::Chunks(&chunks), encoding)
            }
        };
        let key = self.key.seal();
        key.open(key.nonce(&context), &context, stored)
    }

    /// Notes a block whose stored bytes begin at this offset.
    pub(crate) fn push(&mut self, block: &NewBlock<'_>, offset: u32) {
        let mut noted = Block {
            encoding: block.encoding,
            offset,
            stored_bytes: block.stored.len() as u32,
            plain_bytes: 0,
            first: self.chunks.len() as u32,
            chunks: 0,
            alone: true,
        };
        match block.content {
            BlockContent::Index(root, plain_bytes) => {
                noted.plain_bytes = plain_bytes;
                self.push_index(noted, root);
            }
            BlockContent::Chunks(chunks) => {
                // At most BLOCK_CHUNKS_MAX.
                noted.chunks = chunks.len() as u8;
                noted.plain_bytes = chunks.iter().map(StoredChunk::data_bytes).sum::<usize>() as u32;
                self.push_chunks(noted, chunks);
            }
        }
    }

    fn push_index(&mut self, block: Block, root: IndexRoot) {
        self.encoded_bytes += BLOCK_BYTES + INDEX_ENTRY_BYTES;
        self.indexes.push((root, self.blocks.len() as u32));
        self.blocks.push(block);
    }

    fn push_chunks(&mut self, mut block: Block, chunks: &[StoredChunk]) {
        block.alone = chunks.iter().all(|chunk| chunk.reference.is_none() && chunk.shared.is_empty());
        self.encoded_bytes += BLOCK_BYTES;
        for chunk in chunks {
            self.encoded_bytes += chunk_entry_bytes(chunk);
            let number = self.chunks.len() as u32;
            if chunk.plain_bytes as usize != CHUNK_BYTES {
                self.short.push((number, chunk.plain_bytes));
            }
            self.references.extend(chunk.reference.map(|reference| (number, reference)));
            if !chunk.shared.is_empty() {
                self.sharing.push((number, self.shared.len() as u32));
                self.shared.extend_from_slice(&chunk.shared);
            }
            self.chunks.push(PackedChunk { id: chunk.id, pages: chunk.pages });
        }
        self.blocks.push(block);
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub(crate) fn indexes(&self) -> &[(IndexRoot, u32)] {
        &self.indexes
    }

    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// The ids of all chunks, in order.
    pub(crate) fn chunk_ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.chunks.iter().map(|chunk| chunk.id)
    }

    /// A chunk's id, by its number.
    pub(crate) fn id(&self, chunk: u32) -> ChunkId {
        self.chunks[chunk as usize].id
    }

    /// How many plain bytes a chunk has.
    pub(crate) fn plain_bytes(&self, chunk: u32) -> u32 {
        said(&self.short, chunk).unwrap_or(CHUNK_BYTES as u32)
    }

    /// A chunk, by its number.
    pub(crate) fn chunk(&self, number: u32) -> StoredChunk {
        let PackedChunk { id, pages } = self.chunks[number as usize];
        let shared = said(&self.sharing, number)
            .map(|start| self.shared[start as usize..][..pages.count(Page::Shared)].to_vec());
        StoredChunk {
            id,
            plain_bytes: self.plain_bytes(number),
            pages,
            reference: said(&self.references, number),
            shared: shared.unwrap_or_default(),
        }
    }

    /// Gives back memory that was set aside for more.
    pub(crate) fn shrink(&mut self) {
        self.blocks.shrink_to_fit();
        self.chunks.shrink_to_fit();
        self.short.shrink_to_fit();
        self.references.shrink_to_fit();
        self.sharing.shrink_to_fit();
        self.shared.shrink_to_fit();
    }

    /// Whether a block can be read by itself: its chunks need no others.
    pub(crate) fn is_block_alone(&self, block: u32) -> bool {
        self.blocks[block as usize].alone
    }

    /// Whether a chunk's block can be read by itself.
    pub(crate) fn is_alone(&self, chunk: u32) -> bool {
        self.is_block_alone(self.block_of(chunk))
    }

    /// The number of a chunk.
    pub(crate) fn find(&self, id: &ChunkId) -> Option<u32> {
        (0..).zip(&self.chunks).find(|(_, chunk)| chunk.id == *id).map(|(number, _)| number)
    }

    /// The number of the block that holds a chunk.
    pub(crate) fn block_of(&self, chunk: u32) -> u32 {
        // An index has no chunks, so it begins where the next block does.
        self.blocks.partition_point(|block| block.first <= chunk) as u32 - 1
    }

    /// Where a chunk's bytes begin among those that its block expands to.
    pub(crate) fn start_of(&self, chunk: u32) -> usize {
        let first = self.blocks[self.block_of(chunk) as usize].first;
        let data = |chunk| self.chunks[chunk as usize].pages.data_bytes(self.plain_bytes(chunk) as usize);
        (first..chunk).map(data).sum()
    }

    /// The numbers of a block's chunks; none if it is an index.
    pub(crate) fn chunks_of(&self, block: u32) -> std::ops::Range<u32> {
        let block = self.blocks[block as usize];
        block.first..block.first + u32::from(block.chunks)
    }

    /// The chunks with which this pack's share pages.
    pub(crate) fn owners(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.shared.iter().map(|page| page.chunk)
    }

    /// The chunks with which a block's share pages.
    pub(crate) fn owners_of(&self, block: u32) -> impl Iterator<Item = ChunkId> + '_ {
        let start = |chunk: u32| {
            let next = self.sharing.partition_point(|(sharing, _)| *sharing < chunk);
            self.sharing.get(next).map_or(self.shared.len(), |(_, start)| *start as usize)
        };
        let chunks = self.chunks_of(block);
        self.shared[start(chunks.start)..start(chunks.end)].iter().map(|page| page.chunk)
    }

    /// What counts against the limit on a pack's records.
    pub(crate) fn records(&self) -> usize {
        self.chunks.len() + self.indexes.len()
    }

    /// Bytes of the directory, sealed, and the trailer.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        (COUNTS_BYTES + self.encoded_bytes + TAG_BYTES + TRAILER_BYTES) as u64
    }

    /// The bytes of the sealed directory and the trailer, to follow the blocks.
    pub(crate) fn seal(&self) -> Result<Vec<u8>, TooLong> {
        let (mut bytes, offset) = self.encode();
        let context = directory_context(offset, &self.key);
        let key = self.key.seal();
        // Of what it is and says: a pack with the same directory elsewhere is another one.
        let nonce = key.nonce(&[&context, bytes.as_slice()].concat());
        key.seal(nonce, &context, &mut bytes)?;
        let trailer = Trailer { offset, directory_bytes: bytes.len(), key: self.key.id(), nonce };
        bytes.extend_from_slice(&trailer.encode());
        Ok(bytes)
    }

    /// The plain bytes, and where they begin in the file.
    fn encode(&self) -> (Vec<u8>, u64) {
        let mut bytes = Vec::with_capacity(self.sealed_bytes() as usize);
        // Both are at most PACK_RECORDS_MAX.
        bytes.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        let mut offset = HEADER_BYTES as u64;
        let mut indexes = self.indexes.iter();
        for (number, block) in self.blocks.iter().enumerate() {
            debug_assert_eq!(u64::from(block.offset), offset, "blocks have no gaps");
            offset += u64::from(block.stored_bytes);
            let kind = if block.chunks == 0 { KIND_INDEX } else { 0 };
            bytes.push(kind | encoding_code(block.encoding));
            bytes.push(block.chunks);
            bytes.extend_from_slice(&block.stored_bytes.to_le_bytes());
            for chunk in self.chunks_of(number as u32) {
                encode_chunk(&self.chunk(chunk), &mut bytes);
            }
            if block.chunks == 0 {
                if let Some((root, _)) = indexes.next() {
                    encode_index(*root, block.plain_bytes, &mut bytes);
                }
            }
        }
        debug_assert_eq!(bytes.len(), COUNTS_BYTES + self.encoded_bytes);
        (bytes, offset)
    }

    /// Opens the directory that a trailer describes, with the key that it names.
    pub(crate) fn open(key: ServiceKey, trailer: &Trailer, mut sealed: Vec<u8>) -> Result<Self, String> {
        let context = directory_context(trailer.offset, &key);
        let opened = key.seal().open(trailer.nonce, &context, &mut sealed);
        opened.map_err(|reason| format!("its directory can't be opened: {reason}"))?;
        Self::decode(key, trailer, &sealed)
    }

    fn decode(key: ServiceKey, trailer: &Trailer, bytes: &[u8]) -> Result<Self, String> {
        let mut directory = Self::new(key);
        let mut reader = Reader { bytes };
        let (blocks, chunks) = (reader.number()?, reader.number()?);
        let mut offset = HEADER_BYTES as u64;
        while !reader.bytes.is_empty() {
            if offset > trailer.offset || directory.records() > PACK_RECORDS_MAX {
                return Err("it has more records than it says".to_owned());
            }
            offset += block::decode(&mut reader, &mut directory, offset as u32)?;
        }
        let counts = (directory.blocks.len() as u64, directory.chunks.len() as u64);
        if offset != trailer.offset || counts != (blocks.into(), chunks.into()) {
            return Err("its blocks do not fill it".to_owned());
        }
        directory.shrink();
        Ok(directory)
    }
}

#[path = "directory_block.rs"]
mod block;

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
