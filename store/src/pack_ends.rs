//! A pack's two ends: the header, which says what it is, and the trailer, which says where its directory is and which
//! key opens it. They are all that is not sealed. Pure.

use sustain_proto::KeyId;
use sustain_proto::limits::PACK_BYTES_MAX;
use sustain_seal::NONCE_BYTES;

use crate::directory;

pub(crate) const HEADER_BYTES: usize = 8;
pub(crate) const TRAILER_BYTES: usize = 36;
const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"SPCK";
const TRAILER_MAGIC: [u8; 4] = *b"KCPS";
/// Where the trailer's checksum is, over what comes before. It tells damage from another key.
const CHECK_AT: usize = TRAILER_BYTES - 8;

/// What a trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Where the directory begins, and the blocks end.
    pub(crate) offset: u64,
    /// Its bytes as they are sealed.
    pub(crate) directory_bytes: usize,
    /// What all of the pack is sealed under.
    pub(crate) key: KeyId,
    /// The directory's.
    pub(crate) nonce: [u8; NONCE_BYTES],
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
        let (key, nonce) = (KeyId::from_bytes(reader.take()?), reader.take()?);
        if reader.take()? != check(bytes) || reader.bytes != TRAILER_MAGIC {
            return Err("its end is damaged".to_owned());
        }
        let end = pack_bytes.checked_sub(TRAILER_BYTES as u64);
        let directory_bytes = end.and_then(|end| end.checked_sub(offset));
        match directory_bytes {
            Some(bytes)
                if pack_bytes <= PACK_BYTES_MAX
                    && offset >= HEADER_BYTES as u64
                    && bytes <= directory::SEALED_BYTES_MAX =>
            {
                // At most the limit on packs.
                Ok(Self { offset, directory_bytes: bytes as usize, key, nonce })
            }
            _ => Err("its end does not fit its size".to_owned()),
        }
    }

    /// The bytes that follow the directory.
    pub(crate) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(self.key.as_bytes());
        bytes[16..CHECK_AT].copy_from_slice(&self.nonce);
        let check = check(&bytes);
        bytes[CHECK_AT..CHECK_AT + 4].copy_from_slice(&check);
        bytes[CHECK_AT + 4..].copy_from_slice(&TRAILER_MAGIC);
        bytes
    }
}

fn check(trailer: &[u8; TRAILER_BYTES]) -> [u8; 4] {
    let hash = blake3::hash(&trailer[..CHECK_AT]);
    let mut check = [0; 4];
    check.copy_from_slice(&hash.as_bytes()[..4]);
    check
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
        let key = KeyId::from_bytes([5; 8]);
        let trailer = Trailer { offset: 100, directory_bytes: 39, key, nonce: [7; NONCE_BYTES] };
        let bytes = trailer.encode();
        assert_eq!(Trailer::decode(&bytes, 100 + 39 + TRAILER_BYTES as u64), Ok(trailer));
        for pack_bytes in [0, 99, 100, PACK_BYTES_MAX + 1, u64::MAX] {
            assert!(Trailer::decode(&bytes, pack_bytes).is_err(), "{pack_bytes}");
        }
        for position in 0..TRAILER_BYTES {
            let mut bytes = bytes;
            bytes[position] ^= 1;
            assert!(Trailer::decode(&bytes, 100 + 39 + TRAILER_BYTES as u64).is_err(), "byte {position}");
        }
    }
}
