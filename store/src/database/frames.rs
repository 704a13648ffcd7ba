//! Logic: the journal's bytes. A header, then frames: each is what one commit changed, with a checksum over its place
//! too.
//!
//! A frame that was not written to its end is no frame, and ends the journal: it was never acknowledged. One after
//! which another follows was, so that its loss is damage.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the first frame: magic number, version, two that are zero, salt.
pub(super) const HEADER_BYTES: usize = 24;
const MAGIC: [u8; 4] = *b"SUSj";
const VERSION: u16 = 1;

/// Before the body of each frame: magic number, the body's length, checksum.
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_MAGIC: [u8; 4] = *b"SUSf";
/// Frames begin at multiples of this, so that they are found behind a damaged one.
const ALIGNMENT: usize = 8;

/// What is in no other journal: a frame counts only in the one that it was written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt(pub(super) [u8; 16]);

/// The first bytes of a journal.
pub(super) fn header(salt: Salt) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&salt.0);
    bytes
}

/// Reads the header.
pub(super) fn read_header(bytes: &[u8]) -> Result<Salt, String> {
    let header = bytes.get(..HEADER_BYTES).ok_or("it is cut short")?;
    if header[..4] != MAGIC {
        return Err("it is no journal".to_owned());
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(format!("it has version {version}, this build reads version {VERSION}"));
    }
    let mut salt = [0; 16];
    salt.copy_from_slice(&header[8..HEADER_BYTES]);
    Ok(Salt(salt))
}

/// A frame for this place; none if its body is too large for one.
pub(super) fn frame(salt: Salt, place: u64, value: &impl Serialize) -> Option<Vec<u8>> {
    let body = postcard::to_extend(value, Vec::new()).ok()?;
    let mut bytes = FRAME_MAGIC.to_vec();
    bytes.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(&check(salt, place, &body));
    bytes.extend_from_slice(&body);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    Some(bytes)
}

/// The frame at a place, and how many bytes it takes; none if there is no whole one.
pub(super) fn read_frame<T: DeserializeOwned>(salt: Salt, place: u64, bytes: &[u8]) -> Option<(T, usize)> {
    let (header, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES)?;
    if header[..4] != FRAME_MAGIC {
        return None;
    }
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let body = rest.get(..length)?;
    if header[8..] != check(salt, place, body) {
        return None;
    }
    let (value, unused) = postcard::take_from_bytes(body).ok()?;
    let whole = (FRAME_HEADER_BYTES + length).next_multiple_of(ALIGNMENT);
    (unused.is_empty() && whole <= bytes.len()).then_some((value, whole))
}

/// Whether a whole frame follows somewhere behind a place at which there is none.
pub(super) fn follows<T: DeserializeOwned>(salt: Salt, place: u64, bytes: &[u8]) -> bool {
    let places = (ALIGNMENT..bytes.len()).step_by(ALIGNMENT);
    places.into_iter().any(|at| read_frame::<T>(salt, place + at as u64, &bytes[at..]).is_some())
}

fn check(salt: Salt, place: u64, body: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&salt.0)
        .update(&place.to_le_bytes())
        .update(&(body.len() as u64).to_le_bytes())
        .update(body);
    let mut check = [0; 16];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt([7; 16]);

    fn journal() -> (Vec<u8>, usize) {
        let mut bytes = header(SALT);
        bytes.extend(frame(SALT, bytes.len() as u64, &"one").unwrap());
        let second = bytes.len();
        bytes.extend(frame(SALT, second as u64, &"two").unwrap());
        (bytes, second)
    }

    #[test]
    fn frames_are_read_back_at_their_place_only() {
        let (bytes, second) = journal();
        assert_eq!(read_header(&bytes), Ok(SALT));
        let (first, length) =
            read_frame::<String>(SALT, HEADER_BYTES as u64, &bytes[HEADER_BYTES..]).unwrap();
        assert_eq!((first.as_str(), HEADER_BYTES + length), ("one", second));
        let read = |salt, place| read_frame::<String>(salt, place, &bytes[second..]).map(|(text, _)| text);
        assert_eq!(read(SALT, second as u64).as_deref(), Some("two"));
        assert_eq!((read(SALT, second as u64 + 8), read(Salt([8; 16]), second as u64)), (None, None));
    }

    #[test]
    fn a_frame_that_is_torn_or_changed_is_none() {
        let (bytes, second) = journal();
        for end in second..bytes.len() {
            assert!(read_frame::<String>(SALT, second as u64, &bytes[second..end]).is_none(), "{end}");
        }
        // Padding is not checked: it says nothing.
        for at in second..second + FRAME_HEADER_BYTES + 4 {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            assert!(read_frame::<String>(SALT, second as u64, &changed[second..]).is_none(), "{at}");
        }
    }

    #[test]
    fn one_behind_a_damaged_one_is_found() {
        let (mut bytes, second) = journal();
        assert!(!follows::<String>(SALT, second as u64, &bytes[second..]));
        bytes[HEADER_BYTES + 30] ^= 1;
        assert!(follows::<String>(SALT, HEADER_BYTES as u64, &bytes[HEADER_BYTES..]));
    }
}
