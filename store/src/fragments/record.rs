//! Logic: the bytes of a segment's header and of its records' headers. docs/format.md has them in a table.

use sustain_proto::{Cut, FragmentId, PackId, PackRef, Sheet, group_count};

use crate::limits;

const SEGMENT_MAGIC: [u8; 4] = *b"SUSg";
/// How each record begins.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"SUSr";
const VERSION: u16 = 1;

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 24;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 144;
/// Where in the header of a record its state is, which changes; all before it never does.
pub(crate) const STATE_AT: usize = 136;
const CHECK_AT: usize = 120;
/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: u64 = 8;

/// Bytes that no other segment has, so that nothing in a fragment passes for a record of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) [u8; 16]);

/// A segment's header.
pub(crate) fn segment_header(salt: Salt) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..4].copy_from_slice(&SEGMENT_MAGIC);
    header[4..6].copy_from_slice(&VERSION.to_le_bytes());
    header[8..].copy_from_slice(&salt.0);
    header
}

/// Reads it.
pub(crate) fn read_segment_header(header: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Salt, String> {
    if header[..4] != SEGMENT_MAGIC {
        return Err("this is no segment of fragments: its magic number is wrong".to_owned());
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(format!("it is a segment of version {version}, this build reads version {VERSION}"));
    }
    let mut salt = [0; 16];
    salt.copy_from_slice(&header[8..]);
    Ok(Salt(salt))
}

/// Most bytes without meaning behind a mark: a segment has fewer.
const MARK_BYTES_MAX: u64 = 1 << 40;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A fragment and its pack's sheet.
    Fragment,
    /// A sheet alone.
    Sheet,
    /// Nothing but what was on the disk when it was written, and bytes without meaning, if any.
    Mark,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Nothing.
    Here,
    /// It is damaged.
    Aside,
    /// It was dropped.
    Dropped,
    /// It was dropped, and its bytes are free.
    Free,
}

impl State {
    /// As it is stored.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Here => 0,
            Self::Aside => 1,
            Self::Dropped => 2,
            Self::Free => 3,
        }
    }

    /// Any other byte is damage, and nothing is lost for it.
    const fn of(byte: u8) -> Self {
        match byte {
            1 => Self::Aside,
            2 => Self::Dropped,
            3 => Self::Free,
            _ => Self::Here,
        }
    }
}

/// Which fragment of which pack, under which cut; none is the sheet itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) pack: PackId,
    pub(crate) cut: Cut,
    pub(crate) index: Option<u8>,
}

/// A record's header, but for its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) index: u8,
    pub(crate) cut: Cut,
    pub(crate) pack: PackRef,
    pub(crate) fragment: FragmentId,
    pub(crate) sheet_bytes: u32,
    pub(crate) fragment_bytes: u64,
    /// The first half of the sheet's BLAKE3.
    pub(crate) sheet_check: [u8; 16],
    /// The segment's bytes before this place were on the disk when the record was written.
    pub(crate) synced: u64,
}

/// The first half of the BLAKE3.
pub(crate) fn half_hash(bytes: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    half
}

impl Header {
    /// Of a fragment, or of a sheet alone if no number is given, which the sheet must have.
    pub(crate) fn of(sheet: &Sheet, index: Option<u8>, stored_sheet: &[u8], synced: u64) -> Self {
        let fragment = index.and_then(|index| sheet.fragments.get(usize::from(index))).copied();
        Self {
            kind: if fragment.is_some() { Kind::Fragment } else { Kind::Sheet },
            index: index.unwrap_or_default(),
            cut: sheet.cut,
            pack: sheet.pack,
            fragment: fragment.unwrap_or(FragmentId::from_bytes([0; 32])),
            sheet_bytes: u32::try_from(stored_sheet.len()).unwrap_or(u32::MAX),
            fragment_bytes: fragment.map_or(0, |_| sheet.cut.fragment_bytes(sheet.pack.bytes)),
            sheet_check: half_hash(stored_sheet),
            synced,
        }
    }

    /// A mark, with so many bytes without meaning behind it.
    pub(crate) fn mark(synced: u64, bytes: u64) -> Self {
        Self {
            kind: Kind::Mark,
            index: 0,
            cut: Cut { needed: 0, total: 0, extent_bytes: 0 },
            pack: PackRef { id: PackId::from_bytes([0; 32]), bytes: 0 },
            fragment: FragmentId::from_bytes([0; 32]),
            sheet_bytes: 0,
            fragment_bytes: bytes,
            sheet_check: [0; 16],
            synced,
        }
    }

    pub(crate) fn key(&self) -> Key {
        let index = (self.kind == Kind::Fragment).then_some(self.index);
        Key { pack: self.pack.id, cut: self.cut, index }
    }

    /// Bytes of the list of groups, which a fragment of one group has none of.
    pub(crate) fn groups_bytes(&self) -> u64 {
        let groups = group_count(self.fragment_bytes) as u64;
        if groups > 1 && self.kind == Kind::Fragment { groups * 32 } else { 0 }
    }

    /// Where the list of groups begins, behind the sheet, in a record that begins here.
    pub(crate) fn groups_at(&self, place: u64) -> u64 {
        place + RECORD_HEADER_BYTES as u64 + u64::from(self.sheet_bytes)
    }

    /// Where the fragment begins.
    pub(crate) fn fragment_at(&self, place: u64) -> u64 {
        self.groups_at(place) + self.groups_bytes()
    }

    /// Bytes of the whole record, and what fills it up.
    pub(crate) fn record_bytes(&self) -> u64 {
        (self.fragment_at(0) + self.fragment_bytes).next_multiple_of(ALIGNMENT)
    }

    /// The bytes of a header at this place.
    pub(crate) fn encode(&self, salt: Salt, place: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES);
        bytes.extend_from_slice(&RECORD_MAGIC);
        bytes.extend_from_slice(&[self.kind as u8, self.index, self.cut.needed, self.cut.total]);
        bytes.extend_from_slice(&self.cut.extent_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.sheet_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.fragment_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.pack.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.synced.to_le_bytes());
        bytes.extend_from_slice(self.pack.id.as_bytes());
        bytes.extend_from_slice(self.fragment.as_bytes());
        bytes.extend_from_slice(&self.sheet_check);
        bytes.extend_from_slice(&check(salt, place, &bytes));
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..bytes.len()].copy_from_slice(&bytes);
        header
    }

    /// Reads a header and the state behind it. None if there is none at this place of this segment.
    pub(crate) fn decode(salt: Salt, place: u64, bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<(Self, State)> {
        if bytes[..4] != RECORD_MAGIC || bytes[CHECK_AT..STATE_AT] != check(salt, place, &bytes[..CHECK_AT]) {
            return None;
        }
        let header = Self {
            kind: match bytes[4] {
                0 => Kind::Fragment,
                1 => Kind::Sheet,
                2 => Kind::Mark,
                _ => return None,
            },
            index: bytes[5],
            cut: Cut { needed: bytes[6], total: bytes[7], extent_bytes: u32::from_le_bytes(part(bytes, 8)) },
            sheet_bytes: u32::from_le_bytes(part(bytes, 12)),
            fragment_bytes: u64::from_le_bytes(part(bytes, 16)),
            pack: PackRef {
                bytes: u64::from_le_bytes(part(bytes, 24)),
                id: PackId::from_bytes(part(bytes, 40)),
            },
            synced: u64::from_le_bytes(part(bytes, 32)),
            fragment: FragmentId::from_bytes(part(bytes, 72)),
            sheet_check: part(bytes, 104),
        };
        header.is_sound().then_some((header, State::of(bytes[STATE_AT])))
    }

    /// Whoever wrote it keeps to this; one that does not would only waste memory.
    fn is_sound(&self) -> bool {
        if self.kind == Kind::Mark {
            return self.sheet_bytes == 0 && self.fragment_bytes <= MARK_BYTES_MAX;
        }
        self.cut.check().is_ok()
            && self.pack.bytes <= sustain_proto::limits::PACK_BYTES_MAX
            && self.index < self.cut.total
            && self.sheet_bytes as usize <= limits::STORED_SHEET_BYTES_MAX
            && match self.kind {
                Kind::Fragment => self.fragment_bytes == self.cut.fragment_bytes(self.pack.bytes),
                _ => self.fragment_bytes == 0,
            }
    }
}

/// The bytes of a header at this offset, which it has.
fn part<const N: usize>(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&header[at..at + N]);
    part
}

/// Makes the check of the first record that of its header, whatever that says.
pub(crate) fn with_check(segment: &[u8]) -> Option<Vec<u8>> {
    let (head, record) = segment.split_first_chunk::<SEGMENT_HEADER_BYTES>()?;
    let salt = read_segment_header(head).ok()?;
    let check = check(salt, SEGMENT_HEADER_BYTES as u64, record.get(..CHECK_AT)?);
    let mut segment = segment.to_vec();
    let at = SEGMENT_HEADER_BYTES + CHECK_AT;
    segment.get_mut(at..at + check.len())?.copy_from_slice(&check);
    Some(segment)
}

fn check(salt: Salt, place: u64, header: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&salt.0).update(&place.to_le_bytes()).update(header);
    let mut check = [0; 16];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    check
}

#[cfg(test)]
mod tests {
    use sustain_proto::ServiceName;

    use super::*;

    const SALT: Salt = Salt([5; 16]);

    fn header() -> Header {
        let cut = Cut { needed: 2, total: 4, extent_bytes: 64 << 10 };
        let sheet = Sheet {
            service: ServiceName::new("mail").unwrap(),
            pack: PackRef { id: PackId::of(b"pack"), bytes: 300_000 },
            cut,
            fragments: (0..4).map(|number| FragmentId::of(&[number])).collect(),
        };
        Header::of(&sheet, Some(3), &sheet.encode().unwrap(), 24)
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_only_in_its_place() {
        let header = header();
        let mut bytes = header.encode(SALT, 1_000);
        assert_eq!(Header::decode(SALT, 1_000, &bytes), Some((header.clone(), State::Here)));
        assert_eq!(Header::decode(SALT, 1_008, &bytes), None);
        assert_eq!(Header::decode(Salt([6; 16]), 1_000, &bytes), None);
        bytes[STATE_AT] = State::Dropped.byte();
        assert_eq!(Header::decode(SALT, 1_000, &bytes), Some((header.clone(), State::Dropped)));
        for at in 0..STATE_AT {
            let mut bytes = bytes;
            bytes[at] ^= 4;
            assert_eq!(Header::decode(SALT, 1_000, &bytes), None, "byte {at}");
        }
        assert_eq!(header.groups_bytes(), 3 * 32);
        let mark = Header::mark(77, 16);
        assert_eq!(mark.record_bytes(), 160);
        assert_eq!(Header::decode(SALT, 8, &mark.encode(SALT, 8)), Some((mark, State::Here)));
    }

    #[test]
    fn a_header_that_contradicts_itself_is_none() {
        for change in [
            |header: &mut Header| header.fragment_bytes += 1,
            |header: &mut Header| header.index = 4,
            |header: &mut Header| header.cut.needed = 1,
            |header: &mut Header| header.sheet_bytes = u32::MAX,
            |header: &mut Header| header.pack.bytes = u64::MAX,
        ] {
            let mut wrong = header();
            change(&mut wrong);
            assert_eq!(Header::decode(SALT, 0, &wrong.encode(SALT, 0)), None, "{wrong:?}");
        }
    }

    #[test]
    fn segments_of_other_versions_are_refused_by_name() {
        let header = segment_header(SALT);
        assert_eq!(read_segment_header(&header), Ok(SALT));
        let mut newer = header;
        newer[4] = 2;
        assert!(read_segment_header(&newer).unwrap_err().contains("version 2"));
        let mut other = header;
        other[0] = 0;
        assert!(read_segment_header(&other).is_err());
    }
}
