//! The parsers of what is stored, as fuzzing calls them: bytes in, nothing out, no panic. No interface for others.

use std::io;
use std::path::Path;

use sustain_proto::limits::{CHUNK_BYTES, INDEX_BYTES_MAX};
use sustain_proto::{ServiceName, decode, encode};
use sustain_seal::NONCE_BYTES;

use crate::block::{BLOCK_BYTES_MAX, Decoder, Encoding};
use crate::checked::{self, Checked};
use crate::database;
use crate::directory::{PackDirectory, directory_context};
use crate::disk::DiskFile;
use crate::fragments::{StoredSheet, check_record, example, scan, with_check};
use crate::key;
use crate::keys::{Keys, Ring};
use crate::named_pins;
use crate::pack_ends::{HEADER_BYTES, TRAILER_BYTES, Trailer};
use crate::pack_file::{read_directory, read_ends};
use crate::pages::PageMap;
use crate::secret::{Secret, Secrets};
use crate::service_key::ServiceKey;

/// What the key is derived from that the packs of the corpus are sealed under, those of [`SERVICE`].
pub const SECRET: [u8; 32] = [7; 32];
/// Whose packs the corpus has.
pub const SERVICE: &str = "mail";

fn secrets() -> Option<(ServiceName, Secrets)> {
    let service = ServiceName::new(SERVICE).ok()?;
    let secrets = Secrets::one(Secret::from_bytes(SECRET)).of_service(&service);
    Some((service, secrets))
}

fn key() -> Option<ServiceKey> {
    secrets().map(|(_, secrets)| secrets.newest().key())
}

#[derive(Debug)]
struct InMemory<'a>(&'a [u8]);

impl DiskFile for InMemory<'_> {
    fn number(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(buf.len()).and_then(|end| self.0.get(start..end));
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_bytes(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn punch(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// A pack's file: its ends, its directory, every block.
pub fn pack(bytes: &[u8]) {
    let mut ring = Ring::default();
    if let Some((service, secrets)) = secrets() {
        ring.set(&service, Some(&secrets));
    }
    let file = InMemory(bytes);
    let Ok(directory) = read_directory(Path::new("pack"), &file, &Keys::new(ring, None)) else { return };
    walk(&directory, bytes);
}

/// A directory as it is before it is sealed: what whoever has the key may have written.
pub fn directory(plain: &[u8]) {
    let Some(key) = key() else { return };
    // The blocks are as long as the entries say that they are, which only the directory knows.
    let Some((length, plain)) = plain.split_first_chunk::<4>() else { return };
    let offset = HEADER_BYTES as u64 + u64::from(u32::from_le_bytes(*length) % (1 << 27));
    let (nonce, mut sealed) = ([0; NONCE_BYTES], plain.to_vec());
    if key.seal().seal(nonce, &directory_context(offset, &key), &mut sealed).is_err() {
        return;
    }
    let trailer = Trailer { offset, directory_bytes: sealed.len(), key: key.id(), nonce };
    let pack_bytes = offset + sealed.len() as u64 + TRAILER_BYTES as u64;
    let Ok(trailer) = Trailer::decode(&trailer.encode(), pack_bytes) else { return };
    if let Ok(directory) = PackDirectory::open(key, &trailer, sealed) {
        walk(&directory, &[]);
    }
}

/// Inputs of [`directory`] and [`block`] that a pack of [`SECRET`] holds.
#[must_use]
pub fn opened(pack: &[u8]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let key = key()?;
    let file = InMemory(pack);
    let trailer = read_ends(Path::new("pack"), &file).ok()?;
    let start = usize::try_from(trailer.offset).ok()?;
    let mut plain = pack.get(start..start + trailer.directory_bytes)?.to_vec();
    key.seal().open(trailer.nonce, &directory_context(trailer.offset, &key), &mut plain).ok()?;
    let length = u32::try_from(trailer.offset - HEADER_BYTES as u64).ok()?;
    let directory =
        PackDirectory::open(key, &trailer, pack[start..start + trailer.directory_bytes].to_vec()).ok()?;
    let mut blocks = Vec::new();
    for (number, block) in (0_u32..).zip(directory.blocks()) {
        let start = block.offset as usize;
        let mut stored = pack.get(start..start + block.stored_bytes as usize)?.to_vec();
        directory.open_block(number, &mut stored).ok()?;
        let encoding =
            [Encoding::Raw, Encoding::Zstd, Encoding::Delta].iter().position(|e| *e == block.encoding)?;
        let pages = directory.chunks_of(number).next().map_or(0, |chunk| directory.chunk(chunk).pages.bits());
        let mut head = vec![encoding as u8];
        head.extend_from_slice(&block.plain_bytes.to_le_bytes());
        head.extend_from_slice(&pages.to_le_bytes());
        head.push(0);
        blocks.push([head, stored].concat());
    }
    Some(([length.to_le_bytes().to_vec(), plain].concat(), blocks))
}

/// Everything that is asked of a directory when a pack is read.
fn walk(directory: &PackDirectory, file: &[u8]) {
    let Ok(mut decoder) = Decoder::new() else { return };
    for id in directory.chunk_ids() {
        assert!(directory.find(&id).is_some(), "a chunk that is listed is not found");
    }
    for (number, block) in (0_u32..).zip(directory.blocks()) {
        let (start, stored) = (block.offset as usize, block.stored_bytes as usize);
        let mut data = Vec::new();
        if let Some(bytes) = file.get(start..start.saturating_add(stored)) {
            let mut bytes = bytes.to_vec();
            if directory.open_block(number, &mut bytes).is_ok() {
                let _ = decoder.decode(block.encoding, &bytes, &[], block.plain_bytes as usize, &mut data);
            }
        }
        for chunk in directory.chunks_of(number) {
            let (entry, start) = (directory.chunk(chunk), directory.start_of(chunk));
            assert!(
                start + entry.data_bytes() <= block.plain_bytes as usize,
                "a chunk lies outside its block"
            );
            let (mut plain, reference) = (vec![0; entry.plain_bytes as usize], vec![1; CHUNK_BYTES]);
            let part = data.get(start..start + entry.data_bytes()).unwrap_or_default();
            let _ = entry.pages.assemble(part, &reference, &[], &mut plain);
            for page in 0..16 {
                let _ = entry.pages.data_range(entry.plain_bytes as usize, page);
            }
        }
        directory.owners_of(number).for_each(drop);
    }
}

/// A block's bytes once they were opened: which encoding, how long it says that it is, which pages; then the bytes.
pub fn block(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<10>() else { return };
    let encoding = [Encoding::Raw, Encoding::Zstd, Encoding::Delta][usize::from(head[0] % 3)];
    let plain_bytes =
        u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize % (BLOCK_BYTES_MAX + 1);
    let pages = PageMap::from_bits(u32::from_le_bytes([head[5], head[6], head[7], head[8]]));
    let (prefix, stored) = rest.split_at(rest.len().min(usize::from(head[9])));
    let Ok(mut decoder) = Decoder::new() else { return };
    let (bytes, mut data) = (plain_bytes.min(INDEX_BYTES_MAX), Vec::new());
    if decoder.decode(encoding, stored, prefix, bytes, &mut data).is_ok() {
        let mut plain = vec![0; CHUNK_BYTES];
        let _ = pages.assemble(&data, &plain.clone(), &plain.clone(), &mut plain);
    }
}

/// A pin's file.
pub fn pin(bytes: &[u8]) {
    named_pins::try_decode(bytes);
}

/// The list of checked packs. What it says is said again the same way.
pub fn checked(bytes: &[u8]) {
    let Ok(read) = decode::<Checked>(checked::FORMAT, bytes) else { return };
    if let Ok(again) = encode(checked::FORMAT, &read) {
        assert!(decode::<Checked>(checked::FORMAT, &again).is_ok_and(|twice| twice == read));
    }
}

/// A segment of fragments: every header, and every record that is whole. Also with a first header that has its check.
pub fn segment(bytes: &[u8]) {
    read_segment(bytes);
    if let Some(bytes) = with_check(bytes) {
        read_segment(&bytes);
    }
}

fn read_segment(bytes: &[u8]) {
    let (path, file) = (Path::new("segment"), InMemory(bytes));
    let Ok(scanned) = scan(path, &file) else { return };
    for record in &scanned.records {
        assert!(record.end() <= bytes.len() as u64, "a record lies outside its segment");
        let _ = check_record(path, &file, record);
    }
}

/// A segment with one fragment and a mark, as it is written with this salt. None if the sheet does not name it.
#[must_use]
pub fn segment_of(salt: [u8; 16], sheet: &StoredSheet, index: u8, fragment: &[u8]) -> Option<Vec<u8>> {
    example(salt, sheet, index, fragment).ok()
}

/// The database.
pub fn journal(bytes: &[u8]) {
    database::try_read(bytes);
}

/// A file of secrets, and the note of whose secret a store was given.
pub fn key_file(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Secrets::parse(text);
        let _ = key::parse(text);
    }
}
