//! Tests of directories.

use proptest::prelude::*;

use sustain_proto::limits::CHUNK_BYTES;

use super::*;

fn id(number: u8) -> ChunkId {
    ChunkId::from_bytes([number; 32])
}

fn chunk(number: u8, plain_bytes: u32, bits: u32, reference: Option<u8>) -> StoredChunk {
    let pages = PageMap::from_bits(bits);
    let page = |page| SharedPage { chunk: id(50 + page % 2), page };
    let shared = (0..pages.count(Page::Shared) as u8).map(page).collect();
    StoredChunk { id: id(number), plain_bytes, pages, reference: reference.map(id), shared }
}

/// A directory, and the bytes of its blocks.
fn filled(blocks: &[(BlockContent<'_>, Encoding, usize)]) -> (PackDirectory, u64) {
    let mut directory = PackDirectory::default();
    let mut offset = HEADER_BYTES;
    for (content, encoding, bytes) in blocks {
        let stored = vec![0; *bytes];
        let block = NewBlock { content: *content, encoding: *encoding, stored: &stored };
        directory.push(&block, offset as u32);
        offset += bytes;
    }
    (directory, offset as u64)
}

fn sample() -> (PackDirectory, u64) {
    let whole = chunk(1, CHUNK_BYTES as u32, PageMap::all_data(CHUNK_BYTES).bits(), None);
    let delta = [chunk(2, CHUNK_BYTES as u32, 0b11_11_10_11_01, Some(1)), chunk(3, 5_000, 0b00_10, Some(1))];
    filled(&[
        (BlockContent::Chunks(&[whole]), Encoding::Zstd, 10),
        (BlockContent::Chunks(&delta), Encoding::Delta, 20),
        (BlockContent::Index(IndexRoot::from_bytes([4; 32]), 100), Encoding::Raw, 100),
    ])
}

fn decode(bytes: &[u8], pack_bytes: u64) -> Result<PackDirectory, String> {
    let (directory, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    let trailer = Trailer::decode(trailer.try_into().unwrap(), pack_bytes)?;
    if trailer.directory_bytes != directory.len() {
        return Err("length".to_owned());
    }
    PackDirectory::decode(&trailer, directory)
}

/// The bytes with their checksum set right.
fn forged(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - TRAILER_BYTES;
    let hash = *blake3::hash(&bytes[..end]).as_bytes();
    bytes[end + 16..end + 48].copy_from_slice(&hash);
    bytes
}

#[test]
fn directories_are_read_back() {
    let (directory, offset) = sample();
    let bytes = directory.encode();
    assert_eq!(bytes.len() as u64, directory.encoded_bytes());
    assert_eq!(decode(&bytes, offset + bytes.len() as u64), Ok(directory.clone()));
    assert_eq!(directory.chunks_of(1), 1..3);
    assert_eq!((directory.block_of(0), directory.block_of(2)), (0, 1));
    assert_eq!(directory.chunk(2).reference, Some(id(1)));
    assert_eq!((directory.records(), directory.blocks()[1].plain_bytes), (4, 4_096));
}

#[test]
fn any_flipped_bit_is_refused() {
    let (directory, offset) = sample();
    let bytes = directory.encode();
    for position in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[position] ^= 4;
        assert!(decode(&bytes, offset + bytes.len() as u64).is_err(), "byte {position}");
    }
    assert!(decode(&bytes, offset + 1 + bytes.len() as u64).is_err());
}

/// What a whole chunk costs in a directory: a gigabyte of memory has 16,384.
#[test]
fn a_whole_chunk_takes_39_bytes() {
    let whole = chunk(1, CHUNK_BYTES as u32, PageMap::all_data(CHUNK_BYTES).bits(), None);
    let (one, _) = filled(&[(BlockContent::Chunks(&[whole]), Encoding::Zstd, 9)]);
    assert_eq!(one.encoded_bytes(), 39 + TRAILER_BYTES as u64);
}

#[test]
fn forged_directories_are_refused() {
    let (directory, offset) = sample();
    let bytes = directory.encode();
    let whole = offset + bytes.len() as u64;
    // Unknown kind; no chunks; more chunks than follow; stored bytes that do not add up; unknown flag.
    for (position, value) in [(0, 9), (1, 0), (1, 17), (1, 2), (2, 11), (38, 0x43)] {
        let mut bytes = bytes.clone();
        bytes[position] = value;
        assert!(decode(&forged(bytes), whole).is_err(), "byte {position}");
    }
}

proptest! {
    /// Whatever bytes come, with a checksum that is right: no panic, and what is accepted is within limits.
    #[test]
    fn hostile_bytes_are_bounded(
        junk in prop::collection::vec(any::<u8>(), 0..300),
        at in 0_usize..400,
        blocks in 0_u32..10,
    ) {
        let (directory, offset) = sample();
        let mut bytes = directory.encode();
        let end = bytes.len() - TRAILER_BYTES;
        let at = at.min(end);
        let till = (at + junk.len()).min(end);
        bytes[at..till].copy_from_slice(&junk[..till - at]);
        bytes[end + 8..end + 12].copy_from_slice(&blocks.to_le_bytes());
        let bytes = forged(bytes);
        if let Ok(read) = decode(&bytes, offset + bytes.len() as u64) {
            for block in read.blocks() {
                prop_assert!(block.plain_bytes as usize <= INDEX_BYTES_MAX);
                prop_assert!(block.stored_bytes <= block.plain_bytes);
            }
        }
    }
}
