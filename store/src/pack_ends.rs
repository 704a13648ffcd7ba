//! A pack's two ends: the header, which says what it is, and the trailer, which says where its directory is. Pure.

use sustain_proto::limits::{PACK_BYTES_MAX, PACK_RECORDS_MAX};

use crate::directory;

pub(crate) const HEADER_BYTES: usize = 8;
pub(crate) const TRAILER_BYTES: usize = 52;
const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"SPCK";
const TRAILER_MAGIC: [u8; 4] = *b"KCPS";

/// What a trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Where the directory begins, and the blocks end.
    pub(crate) offset: u64,
    pub(crate) directory_bytes: usize,
    pub(crate) blocks: u32,
    pub(crate) chunks: u32,
    pub(crate) hash: [u8; 32],
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

/// What is left to be read.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
}

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (now, later) = self.bytes.split_first_chunk().ok_or("its directory is cut short")?;
        self.bytes = later;
        Ok(*now)
    }

    pub(crate) fn number(&mut self) -> Result<u32, String> {
        self.take().map(u32::from_le_bytes)
    }
}

impl Trailer {
    /// Reads the trailer of a pack with so many bytes, and checks it against that.
    pub(crate) fn decode(bytes: &[u8; TRAILER_BYTES], pack_bytes: u64) -> Result<Self, String> {
        let mut reader = Reader { bytes };
        let offset = u64::from_le_bytes(reader.take()?);
        let (blocks, chunks) = (reader.number()?, reader.number()?);
        let hash = reader.take()?;
        if reader.bytes != TRAILER_MAGIC {
            return Err("its end is damaged".to_owned());
        }
        let records = u64::from(blocks).max(chunks.into());
        if records > PACK_RECORDS_MAX as u64 {
            return Err(format!(
                "it says that it has {records} records, at most {PACK_RECORDS_MAX} are allowed"
            ));
        }
        let end = pack_bytes.checked_sub(TRAILER_BYTES as u64);
        let directory_bytes = end.and_then(|end| end.checked_sub(offset));
        let bytes_max = directory::encoded_bytes_max(blocks, chunks);
        match directory_bytes {
            Some(bytes)
                if pack_bytes <= PACK_BYTES_MAX && offset >= HEADER_BYTES as u64 && bytes <= bytes_max =>
            {
                // At most the limit on packs.
                Ok(Self { offset, directory_bytes: bytes as usize, blocks, chunks, hash })
            }
            _ => Err("its end does not fit its size".to_owned()),
        }
    }

    /// The bytes that follow the directory.
    pub(crate) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chunks.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.hash);
        bytes[48..].copy_from_slice(&TRAILER_MAGIC);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_their_version() {
        assert_eq!(check_header(&header()), Ok(()));
        let mut other = header();
        other[4] = 2;
        assert!(check_header(&other).unwrap_err().contains("version 2"));
    }

    #[test]
    fn trailers_are_read_back_and_fit_their_pack() {
        let trailer = Trailer { offset: 100, directory_bytes: 39, blocks: 1, chunks: 1, hash: [7; 32] };
        let bytes = trailer.encode();
        assert_eq!(Trailer::decode(&bytes, 100 + 39 + TRAILER_BYTES as u64), Ok(trailer));
        for pack_bytes in [0, 99, 100, 100_000, u64::MAX] {
            assert!(Trailer::decode(&bytes, pack_bytes).is_err(), "{pack_bytes}");
        }
    }
}
