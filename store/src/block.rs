//! Blocks: what is compressed and sealed as one, the stored bytes of some chunks or an index. Bytes in, bytes out.
//!
//! The pages of several chunks that are stored go back to back into one block, and where the chunks refer to others,
//! these' pages are the dictionary. Neighbours resemble each other, so the larger window pays: of a mail server's
//! states, such blocks took 20 to 60 % less than chunks each by themselves (docs/benchmarks.md).

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{ChunkId, IndexRoot};
use sustain_seal::{TAG_BYTES, TooLong};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, MAGIC_DICTIONARY};

use crate::entries::block_context;
use crate::limits::{self, BLOCK_CHUNKS_MAX};
use crate::pages::{PageMap, Previous, SharedPage};
use crate::service_key::ServiceKey;

/// Most plain bytes of a block of chunks.
pub(crate) const BLOCK_BYTES_MAX: usize = BLOCK_CHUNKS_MAX * CHUNK_BYTES;

/// The window spans a whole block and its dictionary.
const WINDOW_LOG: u32 = (2 * BLOCK_BYTES_MAX).ilog2();

/// How a block's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are.
    Raw,
    /// A zstd frame.
    Zstd,
    /// A zstd frame whose dictionary is the pages that the block's chunks refer to.
    Delta,
}

/// A chunk as its block has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredChunk {
    pub(crate) id: ChunkId,
    pub(crate) plain_bytes: u32,
    pub(crate) pages: PageMap,
    pub(crate) reference: Option<ChunkId>,
    /// Its pages that are stored with other chunks, in order.
    pub(crate) shared: Vec<SharedPage>,
}

impl StoredChunk {
    /// Bytes that it has in its block.
    pub(crate) fn data_bytes(&self) -> usize {
        self.pages.data_bytes(self.plain_bytes as usize)
    }
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockContent<'a> {
    /// So many chunks, at most [`BLOCK_CHUNKS_MAX`].
    Chunks(&'a [StoredChunk]),
    /// An encoded index of so many bytes, at most [`INDEX_BYTES_MAX`](sustain_proto::limits::INDEX_BYTES_MAX).
    Index(IndexRoot, u32),
}

/// A block on its way into a pack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewBlock<'a> {
    pub(crate) content: BlockContent<'a>,
    pub(crate) encoding: Encoding,
    /// Sealed.
    pub(crate) stored: &'a [u8],
}

/// Encodes and seals blocks. One a thread; its memory is reused.
pub(crate) struct Encoder {
    key: ServiceKey,
    zstd: Compressor<'static>,
    delta: CCtx<'static>,
    delta_level: i32,
    chunks: Vec<StoredChunk>,
    data: Vec<u8>,
    prefix: Vec<u8>,
    stored: Vec<u8>,
}

impl Encoder {
    /// Whole chunks and indexes are compressed at the one level, what has a dictionary at the other.
    pub(crate) fn new(key: &ServiceKey, level: i32, delta_level: i32) -> std::io::Result<Self> {
        let mut zstd = Compressor::new(level)?;
        if level == limits::ZSTD_LEVEL {
            zstd.set_parameter(CParameter::MinMatch(limits::ZSTD_MATCH_BYTES))?;
            zstd.set_parameter(CParameter::HashLog(limits::ZSTD_HASH_LOG))?;
        }
        Ok(Self {
            key: key.clone(),
            zstd,
            delta: CCtx::try_create().ok_or(std::io::ErrorKind::OutOfMemory)?,
            delta_level,
            chunks: Vec::new(),
            data: Vec::with_capacity(BLOCK_BYTES_MAX),
            prefix: Vec::with_capacity(BLOCK_BYTES_MAX),
            stored: Vec::new(),
        })
    }

    /// Adds a chunk to the block, with what it refers to and what was there before.
    pub(crate) fn add(
        &mut self,
        id: ChunkId,
        plain: &[u8],
        reference: Option<(ChunkId, &[u8])>,
        previous: Option<&Previous<'_>>,
    ) {
        debug_assert!(self.chunks.len() < BLOCK_CHUNKS_MAX && plain.len() <= CHUNK_BYTES);
        let old = reference.map(|(_, old)| old);
        let mut shared = Vec::new();
        let pages = PageMap::compare(plain, old, previous, &mut shared);
        pages.append_data(plain, &mut self.data);
        if let Some(old) = old {
            pages.append_prefix(plain.len(), old, &mut self.prefix);
        }
        let reference = reference.map(|(id, _)| id);
        self.chunks.push(StoredChunk { id, plain_bytes: plain.len() as u32, pages, reference, shared });
    }

    /// How many chunks were added.
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// The block of the chunks that were added, if there were any. [`Encoder::clear`] begins the next.
    pub(crate) fn finish(&mut self) -> Result<Option<NewBlock<'_>>, TooLong> {
        if self.chunks.is_empty() {
            return Ok(None);
        }
        let encoding = self.compress();
        let content = BlockContent::Chunks(&self.chunks);
        seal(&self.key, content, encoding, &mut self.stored)?;
        Ok(Some(NewBlock { content, encoding, stored: &self.stored }))
    }

    /// Forgets the block's chunks.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.data.clear();
        self.prefix.clear();
    }

    /// The block of an index.
    pub(crate) fn index(&mut self, root: IndexRoot, encoded: &[u8]) -> Result<NewBlock<'_>, TooLong> {
        make_room(&mut self.stored, encoded.len());
        let content = BlockContent::Index(root, encoded.len() as u32);
        let compressed = self.zstd.compress_to_buffer(encoded, &mut self.stored).ok();
        let encoding = keep_smaller(compressed, Encoding::Zstd, encoded, &mut self.stored);
        seal(&self.key, content, encoding, &mut self.stored)?;
        Ok(NewBlock { content, encoding, stored: &self.stored })
    }

    /// Compresses the data into `stored`, unless that does not make them fewer.
    fn compress(&mut self) -> Encoding {
        make_room(&mut self.stored, self.data.len());
        let (encoding, compressed) = if self.prefix.is_empty() {
            (Encoding::Zstd, self.zstd.compress_to_buffer(&self.data, &mut self.stored).ok())
        } else {
            (Encoding::Delta, self.compress_delta())
        };
        keep_smaller(compressed, encoding, &self.data, &mut self.stored)
    }

    /// Compresses with a dictionary for this once.
    fn compress_delta(&mut self) -> Option<usize> {
        let Self { data, prefix, delta_level, stored, .. } = self;
        if is_plain(prefix) {
            return self.delta.compress_using_dict(stored, data, prefix, *delta_level).ok();
        }
        // A context of its own, as it may not outlive what it refers to.
        let mut context = CCtx::try_create()?;
        context.set_parameter(CParameter::CompressionLevel(*delta_level)).ok()?;
        context.set_parameter(CParameter::WindowLog(WINDOW_LOG)).ok()?;
        context.ref_prefix(prefix).ok()?;
        context.compress2(stored, data).ok()
    }
}

/// Whether zstd takes these bytes for a dictionary of nothing but contents, even if it is not told so. What begins like
/// a file of its own kind of dictionary it takes for one.
fn is_plain(dictionary: &[u8]) -> bool {
    !dictionary.starts_with(&MAGIC_DICTIONARY.to_le_bytes())
}

/// Empties it, with room for the bytes that it may get, sealed. They are not filled with zeros first.
fn make_room(stored: &mut Vec<u8>, bytes: usize) {
    stored.clear();
    stored.reserve(bytes + TAG_BYTES);
}

/// Leaves in `stored` what is to be stored: so many bytes that are in it, if they are fewer than the plain ones.
fn keep_smaller(
    compressed: Option<usize>,
    encoding: Encoding,
    plain: &[u8],
    stored: &mut Vec<u8>,
) -> Encoding {
    match compressed {
        Some(bytes) if bytes < plain.len() => {
            stored.truncate(bytes);
            encoding
        }
        _ => {
            stored.clear();
            stored.extend_from_slice(plain);
            Encoding::Raw
        }
    }
}

/// Seals a block's bytes as the ones of this content: they can't be opened as another block's.
fn seal(
    key: &ServiceKey,
    content: BlockContent<'_>,
    encoding: Encoding,
    stored: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let context = block_context(content, encoding);
    let key = key.seal();
    key.seal(key.nonce(&context), &context, stored)
}

/// Decodes blocks. One a thread; its memory is reused.
pub(crate) struct Decoder {
    zstd: Decompressor<'static>,
    delta: DCtx<'static>,
}

impl Decoder {
    pub(crate) fn new() -> std::io::Result<Self> {
        let delta = DCtx::try_create().ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { zstd: Decompressor::new()?, delta })
    }

    /// Leaves in `plain` the block's bytes, which must be exactly so many, from what was opened of it. `prefix` is the
    /// dictionary.
    pub(crate) fn decode(
        &mut self,
        encoding: Encoding,
        stored: &[u8],
        prefix: &[u8],
        plain_bytes: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        // The buffer bounds what hostile bytes can expand to. It is not filled with zeros first.
        plain.clear();
        plain.reserve_exact(plain_bytes);
        let bytes = match encoding {
            Encoding::Raw if stored.len() == plain_bytes => {
                plain.extend_from_slice(stored);
                Some(stored.len())
            }
            Encoding::Raw => return Err("a block has another length than its directory says"),
            Encoding::Zstd => self.zstd.decompress_to_buffer(stored, plain).ok(),
            Encoding::Delta if is_plain(prefix) => {
                self.delta.decompress_using_dict(plain, stored, prefix).ok()
            }
            Encoding::Delta => decompress_delta(stored, prefix, plain),
        };
        match bytes {
            Some(bytes) if bytes == plain_bytes => Ok(()),
            Some(_) => Err("a block expands to another length than its directory says"),
            None => Err("a block does not decompress"),
        }
    }
}

/// With a context of its own, as it may not outlive what it refers to.
fn decompress_delta(stored: &[u8], prefix: &[u8], plain: &mut Vec<u8>) -> Option<usize> {
    let mut context = DCtx::try_create()?;
    context.ref_prefix(prefix).ok()?;
    context.decompress(plain, stored).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u8, bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
        noise
    }

    fn id(number: u8) -> ChunkId {
        ChunkId::from_bytes([number; 32])
    }

    fn encoder() -> Encoder {
        Encoder::new(&ServiceKey::derive(&[3; 32]), 1, 3).unwrap()
    }

    fn opened(block: &NewBlock<'_>) -> Vec<u8> {
        let context = block_context(block.content, block.encoding);
        let (mut stored, key) = (block.stored.to_vec(), ServiceKey::derive(&[3; 32]));
        key.seal().open(key.seal().nonce(&context), &context, &mut stored).unwrap();
        stored
    }

    #[test]
    fn all_encodings_round_trip() {
        let text = b"abcdefgh".repeat(CHUNK_BYTES / 8);
        let old = noise(1, CHUNK_BYTES);
        let mut new = old.clone();
        new[5_000..5_100].copy_from_slice(&noise(2, 100));
        type Case<'a> = (&'a [u8], Option<&'a [u8]>, Encoding);
        let cases: [Case<'_>; 3] =
            [(&text, None, Encoding::Zstd), (&old, None, Encoding::Raw), (&new, Some(&old), Encoding::Delta)];
        let (mut encoder, mut decoder) = (encoder(), Decoder::new().unwrap());
        for (plain, reference, expected) in cases {
            encoder.clear();
            encoder.add(id(1), plain, reference.map(|old| (id(2), old)), None);
            let prefix = encoder.prefix.clone();
            let block = encoder.finish().unwrap().unwrap();
            assert_eq!(block.encoding, expected);
            let BlockContent::Chunks([chunk]) = block.content else { panic!("one chunk went in") };
            let (bytes, mut data) = (chunk.data_bytes(), Vec::new());
            let stored = opened(&block);
            decoder.decode(block.encoding, &stored, &prefix, bytes, &mut data).unwrap();
            let mut again = vec![0; plain.len()];
            chunk.pages.assemble(&data, reference.unwrap_or_default(), &[], &mut again).unwrap();
            assert!(again == plain);
            for bytes in [data.len() - 1, data.len() + 1] {
                assert!(decoder.decode(block.encoding, &stored, &prefix, bytes, &mut Vec::new()).is_err());
            }
        }
    }

    /// zstd would take such a page for a dictionary of its own kind, and find it damaged, unless it is told what it is.
    #[test]
    fn a_page_that_begins_like_a_dictionary_of_zstd_is_one_of_contents() {
        let mut old = noise(1, CHUNK_BYTES);
        old[..4].copy_from_slice(&MAGIC_DICTIONARY.to_le_bytes());
        let mut new = old.clone();
        new[100..200].copy_from_slice(&noise(2, 100));
        let mut encoder = encoder();
        encoder.add(id(1), &new, Some((id(2), &old)), None);
        let prefix = encoder.prefix.clone();
        assert!(prefix == old[..4_096]);
        let block = encoder.finish().unwrap().unwrap();
        assert_eq!(block.encoding, Encoding::Delta);
        let (stored, mut data) = (opened(&block), Vec::new());
        Decoder::new().unwrap().decode(block.encoding, &stored, &prefix, 4_096, &mut data).unwrap();
        assert!(data == new[..4_096]);
    }

    /// What is compressed with a context that is used again is what the format says: a frame with a prefix.
    #[test]
    fn a_dictionary_is_a_prefix_to_whoever_reads_it() {
        let old = noise(1, CHUNK_BYTES);
        let mut encoder = encoder();
        for number in 2..5 {
            encoder.clear();
            let mut new = old.clone();
            new[..100].copy_from_slice(&noise(number, 100));
            encoder.add(id(1), &new, Some((id(2), &old)), None);
            let prefix = encoder.prefix.clone();
            let stored = opened(&encoder.finish().unwrap().unwrap());
            let mut data = Vec::with_capacity(4_096);
            assert_eq!(decompress_delta(&stored, &prefix, &mut data), Some(4_096));
            assert!(data == new[..4_096]);
        }
    }

    /// A page with 100 new bytes among noise costs little more than these.
    #[test]
    fn a_dictionary_of_what_was_there_before_pays() {
        let old = noise(1, CHUNK_BYTES);
        let mut encoder = encoder();
        for number in 0..BLOCK_CHUNKS_MAX as u8 {
            let mut new = old.clone();
            new[9_000..9_100].copy_from_slice(&noise(number + 2, 100));
            assert_eq!(encoder.chunk_count(), usize::from(number));
            encoder.add(id(number), &new, Some((id(100), &old)), None);
        }
        let block = encoder.finish().unwrap().unwrap();
        let new_bytes = 100 * BLOCK_CHUNKS_MAX;
        assert!((new_bytes..2 * new_bytes).contains(&block.stored.len()), "{}", block.stored.len());
    }

    #[test]
    fn indexes_round_trip() {
        let mut encoder = encoder();
        let encoded = b"index".repeat(100);
        let block = encoder.index(IndexRoot::of(&encoded), &encoded).unwrap();
        let (bytes, mut plain) = (encoded.len(), Vec::new());
        Decoder::new().unwrap().decode(block.encoding, &opened(&block), &[], bytes, &mut plain).unwrap();
        assert_eq!(plain, encoded);
    }
}
