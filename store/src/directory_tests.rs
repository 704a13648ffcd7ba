//! Tests of directories.

use proptest::prelude::*;
use sustain_proto::limits::{CHUNK_BYTES, INDEX_BYTES_MAX};

use super::*;

fn key() -> ServiceKey {
    ServiceKey::derive(&[3; 32])
}

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
    let mut directory = PackDirectory::new(key());
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
        (BlockContent::Chunks(&[whole]), Encoding::Zstd, 26),
        (BlockContent::Chunks(&delta), Encoding::Delta, 36),
        (BlockContent::Index(IndexRoot::from_bytes([4; 32]), 100), Encoding::Raw, 116),
    ])
}

fn open(bytes: &[u8], pack_bytes: u64) -> Result<PackDirectory, String> {
    let (directory, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    let trailer = Trailer::decode(trailer.try_into().unwrap(), pack_bytes)?;
    if trailer.directory_bytes != directory.len() {
        return Err("length".to_owned());
    }
    PackDirectory::open(key(), &trailer, directory.to_vec())
}

/// Reads plain bytes, as only who has the key could have sealed them.
fn decode(bytes: &[u8], offset: u64) -> Result<PackDirectory, String> {
    let trailer = Trailer { offset, directory_bytes: 0, key: key().id(), nonce: [0; 12] };
    PackDirectory::decode(key(), &trailer, bytes)
}

#[test]
fn directories_are_read_back() {
    let (directory, offset) = sample();
    let bytes = directory.seal().unwrap();
    assert_eq!(bytes.len() as u64, directory.sealed_bytes());
    assert_eq!(bytes, directory.seal().unwrap());
    assert_eq!(open(&bytes, offset + bytes.len() as u64), Ok(directory.clone()));
    assert_eq!(directory.chunks_of(1), 1..3);
    assert_eq!((directory.block_of(0), directory.block_of(2)), (0, 1));
    assert_eq!(directory.chunk(2).reference, Some(id(1)));
    assert_eq!((directory.records(), directory.blocks()[1].plain_bytes), (4, 4_096));
}

#[test]
fn any_flipped_bit_is_refused() {
    let (directory, offset) = sample();
    let bytes = directory.seal().unwrap();
    for position in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[position] ^= 4;
        assert!(open(&bytes, offset + bytes.len() as u64).is_err(), "byte {position}");
    }
    assert!(open(&bytes, offset + 1 + bytes.len() as u64).is_err());
}

/// What a whole chunk costs in a directory: a gigabyte of memory has 16,384.
#[test]
fn a_whole_chunk_takes_39_bytes() {
    let whole = chunk(1, CHUNK_BYTES as u32, PageMap::all_data(CHUNK_BYTES).bits(), None);
    let (one, _) = filled(&[(BlockContent::Chunks(&[whole]), Encoding::Zstd, 9)]);
    assert_eq!(one.encoded_bytes, 39);
}

/// Ids, page maps and references are what tells who has no key where a state resembles another.
#[test]
fn nothing_of_a_directory_is_in_the_clear() {
    let (directory, _) = sample();
    let sealed = directory.seal().unwrap();
    for number in [1, 2, 3, 4, 50, 51] {
        assert!(!sealed.windows(8).any(|part| part == [number; 8]), "id {number}");
    }
    assert!(directory.encode().0.windows(8).any(|part| part == [50; 8]));
}

/// Of two packs with blocks of the same lengths, the one's directory fits the other's file.
#[test]
fn a_directory_does_not_open_the_blocks_of_another_pack() {
    let blocks = |number| chunk(number, CHUNK_BYTES as u32, PageMap::all_data(CHUNK_BYTES).bits(), None);
    let seal = |directory: &PackDirectory, content| {
        let (mut bytes, context) = (vec![9; 10], block_context(content, Encoding::Zstd));
        let key = directory.key().seal();
        key.seal(key.nonce(&context), &context, &mut bytes).unwrap();
        bytes
    };
    let (one, other) = ([blocks(1)], [blocks(2)]);
    let directory = |chunks| filled(&[(BlockContent::Chunks(chunks), Encoding::Zstd, 26)]).0;
    let stored = seal(&directory(&one), BlockContent::Chunks(&one));
    assert!(directory(&other).open_block(0, &mut stored.clone()).is_err());
    let mut stored = stored;
    assert_eq!(directory(&one).open_block(0, &mut stored), Ok(()));
    assert_eq!(stored, [9; 10]);
}

#[test]
fn forged_directories_are_refused() {
    let (directory, offset) = sample();
    let (bytes, _) = directory.encode();
    assert_eq!(decode(&bytes, offset), Ok(directory));
    // Unknown kind; no chunks; more chunks than follow; stored bytes that do not add up; unknown flag.
    for (position, value) in [(0, 9), (1, 0), (1, 17), (1, 2), (2, 27), (2, 15), (38, 0x43)] {
        let mut bytes = bytes.clone();
        bytes[COUNTS_BYTES + position] = value;
        assert!(decode(&bytes, offset).is_err(), "byte {position}");
    }
}

proptest! {
    /// Whatever bytes were sealed: no panic, and what is accepted is within limits.
    #[test]
    fn hostile_bytes_are_bounded(
        junk in prop::collection::vec(any::<u8>(), 0..300),
        at in 0_usize..400,
        blocks in 0_u32..10,
    ) {
        let (directory, offset) = sample();
        let (mut bytes, _) = directory.encode();
        let end = bytes.len();
        let at = at.min(end);
        let till = (at + junk.len()).min(end);
        bytes[at..till].copy_from_slice(&junk[..till - at]);
        bytes[..4].copy_from_slice(&blocks.to_le_bytes());
        if let Ok(read) = decode(&bytes, offset) {
            for block in read.blocks() {
                prop_assert!(block.plain_bytes as usize <= INDEX_BYTES_MAX);
                prop_assert!(block.stored_bytes <= block.plain_bytes + TAG_BYTES as u32);
            }
        }
    }
}
