//! A pack's directory: which records it holds. Pure: bytes in, values out.
//!
//! A pack is a header, the records' stored bytes back to back, the directory, and a trailer:
//!
//! ```text
//! header    "SUSP" version(u16) zero(u16)
//! records   stored bytes, no gaps: a record begins where the one before ends
//! directory per record: kind(u8) encoding(u8) id(32) plain bytes(u32) stored bytes(u32)
//! trailer   directory's offset(u64) records(u32) BLAKE3 of the directory(32) "PSUS"
//! ```
//! All numbers are little endian. Since offsets are sums of lengths, no directory can point elsewhere.

use sustain_proto::limits::{PACK_BYTES_MAX, PACK_RECORDS_MAX};

use crate::record::{Encoding, RecordKind};

pub(crate) const HEADER_BYTES: usize = 8;
pub(crate) const TRAILER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 42;
const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"SUSP";
const TRAILER_MAGIC: [u8; 4] = *b"PSUS";

/// One record of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: RecordKind,
    pub(crate) encoding: Encoding,
    pub(crate) id: [u8; 32],
    pub(crate) plain_bytes: u32,
    pub(crate) stored_bytes: u32,
    /// Where its stored bytes begin in the file.
    pub(crate) offset: u32,
}

/// All records of a pack, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PackDirectory {
    pub(crate) entries: Vec<Entry>,
}

/// What a trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    offset: u64,
    records: u32,
    hash: [u8; 32],
}

pub(crate) fn header() -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

pub(crate) fn check_header(bytes: &[u8; HEADER_BYTES]) -> Result<(), String> {
    if bytes[..4] != MAGIC {
        return Err("it is no pack: its magic number is wrong".to_owned());
    }
    let found = u16::from_le_bytes([bytes[4], bytes[5]]);
    if found != VERSION {
        return Err(format!("the pack has version {found}, this build reads version {VERSION}"));
    }
    if bytes[6..] == [0, 0] { Ok(()) } else { Err("its header is damaged".to_owned()) }
}

impl PackDirectory {
    /// The number of a record.
    pub(crate) fn find(&self, kind: RecordKind, id: &[u8; 32]) -> Option<usize> {
        self.entries.iter().position(|entry| entry.kind == kind && entry.id == *id)
    }

    /// The bytes of directory and trailer, to follow the records.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_BYTES + TRAILER_BYTES);
        let mut offset = HEADER_BYTES as u64;
        for entry in &self.entries {
            debug_assert_eq!(u64::from(entry.offset), offset, "records have no gaps");
            bytes.push(match entry.kind {
                RecordKind::Chunk => 0,
                RecordKind::Index => 1,
            });
            bytes.push(match entry.encoding {
                Encoding::Raw => 0,
                Encoding::Zstd => 1,
            });
            bytes.extend_from_slice(&entry.id);
            bytes.extend_from_slice(&entry.plain_bytes.to_le_bytes());
            bytes.extend_from_slice(&entry.stored_bytes.to_le_bytes());
            offset += u64::from(entry.stored_bytes);
        }
        let hash = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(&offset.to_le_bytes());
        // At most PACK_RECORDS_MAX, which fits.
        bytes.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&hash);
        bytes.extend_from_slice(&TRAILER_MAGIC);
        bytes
    }

    /// Bytes that directory and trailer take for so many records.
    pub(crate) fn encoded_bytes(records: usize) -> u64 {
        (records * ENTRY_BYTES + TRAILER_BYTES) as u64
    }

    /// Reads a directory that its trailer describes.
    pub(crate) fn decode(trailer: &Trailer, bytes: &[u8]) -> Result<Self, String> {
        if *blake3::hash(bytes).as_bytes() != trailer.hash {
            return Err("its directory's checksum does not match".to_owned());
        }
        let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
        let mut offset = HEADER_BYTES as u64;
        for bytes in bytes.chunks_exact(ENTRY_BYTES) {
            let entry = decode_entry(bytes, offset)?;
            offset += u64::from(entry.stored_bytes);
            entries.push(entry);
        }
        if offset == trailer.offset {
            Ok(Self { entries })
        } else {
            Err("its records do not fill it".to_owned())
        }
    }
}

fn decode_entry(bytes: &[u8], offset: u64) -> Result<Entry, String> {
    let kind = match bytes[0] {
        0 => RecordKind::Chunk,
        1 => RecordKind::Index,
        other => return Err(format!("a record is of the unknown kind {other}")),
    };
    let encoding = match bytes[1] {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        other => return Err(format!("a record has the unknown encoding {other}")),
    };
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[2..34]);
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (plain_bytes, stored_bytes) = (number(34), number(38));
    if plain_bytes == 0 || plain_bytes as usize > kind.plain_bytes_max() || stored_bytes > plain_bytes {
        return Err("a record has an impossible length".to_owned());
    }
    let offset = u32::try_from(offset).map_err(|_| "its records are longer than a pack".to_owned())?;
    Ok(Entry { kind, encoding, id, plain_bytes, stored_bytes, offset })
}

impl Trailer {
    /// Reads the trailer of a pack with so many bytes, and checks it against that.
    pub(crate) fn decode(bytes: &[u8; TRAILER_BYTES], pack_bytes: u64) -> Result<Self, String> {
        if bytes[44..] != TRAILER_MAGIC {
            return Err("its end is damaged".to_owned());
        }
        let mut offset = [0; 8];
        offset.copy_from_slice(&bytes[..8]);
        let offset = u64::from_le_bytes(offset);
        let records = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[12..44]);
        if records as usize > PACK_RECORDS_MAX {
            return Err(format!(
                "it says that it has {records} records, at most {PACK_RECORDS_MAX} are allowed"
            ));
        }
        let end = offset.checked_add(PackDirectory::encoded_bytes(records as usize));
        if pack_bytes > PACK_BYTES_MAX || offset < HEADER_BYTES as u64 || end != Some(pack_bytes) {
            return Err("its end does not fit its size".to_owned());
        }
        Ok(Self { offset, records, hash })
    }

    pub(crate) fn directory_offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn directory_bytes(&self) -> usize {
        self.records as usize * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PackDirectory {
        let entry = |kind, id, stored_bytes, offset| Entry {
            kind,
            encoding: Encoding::Zstd,
            id: [id; 32],
            plain_bytes: 100,
            stored_bytes,
            offset,
        };
        PackDirectory {
            entries: vec![entry(RecordKind::Chunk, 1, 10, 8), entry(RecordKind::Index, 2, 20, 18)],
        }
    }

    fn decode(bytes: &[u8], pack_bytes: u64) -> Result<PackDirectory, String> {
        let (directory, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
        let trailer = Trailer::decode(trailer.try_into().unwrap(), pack_bytes)?;
        if trailer.directory_bytes() != directory.len() {
            return Err("length".to_owned());
        }
        PackDirectory::decode(&trailer, directory)
    }

    #[test]
    fn directories_are_read_back() {
        let directory = sample();
        let bytes = directory.encode();
        assert_eq!(bytes.len() as u64, PackDirectory::encoded_bytes(2));
        assert_eq!(decode(&bytes, 38 + bytes.len() as u64), Ok(directory));
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let bytes = sample().encode();
        for position in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[position] ^= 4;
            assert!(decode(&bytes, 38 + bytes.len() as u64).is_err(), "byte {position}");
        }
        assert!(decode(&bytes, 39 + bytes.len() as u64).is_err());
    }

    #[test]
    fn headers_name_their_version() {
        assert_eq!(check_header(&header()), Ok(()));
        let mut other = header();
        other[4] = 2;
        assert!(check_header(&other).unwrap_err().contains("version 2"));
    }
}
