//! Fragments: how a pack is cut so that some of its pieces rebuild it, and the sheet that names them (P11, P12).
//!
//! A pack is cut into *extents* of equal size, the last one shorter. Each extent is cut into `needed` shards of equal
//! size, padded with zeros, and a Reed–Solomon code makes as many more of them as there are to be. The fragment
//! with number i is the i-th shard of every extent, one after the other, so that a range of the pack is rebuilt
//! from the same range of any `needed` fragments.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Format};
use crate::{FragmentId, PackId, PackRef, ServiceName, bounded, limits};

const FORMAT: Format =
    Format { name: "sheet of fragments", magic: *b"SUSF", version: 1, bytes_max: limits::SHEET_BYTES_MAX };

/// Why a cut, or the sheet that has it, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// Its numbers make no code.
    #[error(
        "a code in which {needed} of {total} fragments rebuild the data, in extents of {extent_bytes} bytes"
    )]
    Code {
        /// Fragments needed.
        needed: u8,
        /// Fragments in all.
        total: u8,
        /// Bytes of an extent.
        extent_bytes: u32,
    },
    /// It names another number of fragments than there are.
    #[error("a sheet that names {found} fragments of {total}")]
    Names {
        /// Fragments in all.
        total: u8,
        /// Names found.
        found: usize,
    },
    /// The pack is larger than any pack.
    #[error("a pack of {bytes} bytes, where at most {max} are allowed", max = limits::PACK_BYTES_MAX)]
    Pack {
        /// Its bytes.
        bytes: u64,
    },
}

/// How packs are cut into fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cut {
    /// Fragments that rebuild a pack (k), at least 2: with 1 each would be a copy of the pack, which is a pack.
    pub needed: u8,
    /// Different fragments (m), at least `needed`.
    pub total: u8,
    /// Bytes of a pack that are coded at a time; at most [`limits::EXTENT_BYTES_MAX`].
    pub extent_bytes: u32,
}

impl Cut {
    /// A cut in which each shard of an extent is one group, which is hashed and verified as a whole: twice as fast as
    /// one whose shards lie across groups. None if such an extent is too large.
    #[must_use]
    pub const fn in_groups(needed: u8, total: u8) -> Option<Self> {
        let cut = Self { needed, total, extent_bytes: needed as u32 * limits::GROUP_BYTES as u32 };
        if cut.check().is_ok() { Some(cut) } else { None }
    }

    /// Checks that the numbers make a code.
    ///
    /// # Errors
    /// Says what they are.
    pub const fn check(&self) -> Result<(), CutError> {
        let Self { needed, total, extent_bytes } = *self;
        let fits = extent_bytes >= limits::EXTENT_BYTES_MIN && extent_bytes <= limits::EXTENT_BYTES_MAX;
        if needed >= 2 && total >= needed && fits {
            Ok(())
        } else {
            Err(CutError::Code { needed, total, extent_bytes })
        }
    }

    /// Bytes of each shard of an extent with so many bytes.
    #[must_use]
    pub const fn shard_bytes(&self, extent_bytes: u64) -> u64 {
        extent_bytes.div_ceil(self.needed as u64)
    }

    /// Bytes of each fragment of a pack with so many bytes.
    #[must_use]
    pub const fn fragment_bytes(&self, pack_bytes: u64) -> u64 {
        let extent = self.extent_bytes as u64;
        pack_bytes / extent * self.shard_bytes(extent) + self.shard_bytes(pack_bytes % extent)
    }
}

/// Names all fragments of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sheet {
    /// Whose pack it is.
    pub service: ServiceName,
    /// The pack.
    pub pack: PackRef,
    /// How it is cut.
    pub cut: Cut,
    /// The fragments, by number; as many as the cut says.
    #[serde(deserialize_with = "bounded::list::<_, _, { u8::MAX as usize }>")]
    pub fragments: Vec<FragmentId>,
}

impl Sheet {
    /// Encodes the sheet: what its maker signs.
    ///
    /// # Errors
    /// Never for a sheet that passes [`Sheet::check`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(FORMAT, self)
    }

    /// Decodes a sheet. Check it then.
    ///
    /// # Errors
    /// If it is not exactly a sheet of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(FORMAT, bytes)
    }

    /// Checks that it names what its cut makes of its pack.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn check(&self) -> Result<(), CutError> {
        self.cut.check()?;
        if self.fragments.len() != usize::from(self.cut.total) {
            return Err(CutError::Names { total: self.cut.total, found: self.fragments.len() });
        }
        if self.pack.bytes > limits::PACK_BYTES_MAX {
            return Err(CutError::Pack { bytes: self.pack.bytes });
        }
        Ok(())
    }
}

/// A part of a snapshot that is stored and sent by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Piece {
    /// A whole pack.
    Pack(PackId),
    /// One of its fragments.
    Fragment(FragmentId),
}

impl Piece {
    /// The BLAKE3 of its bytes, which is what names it, whichever kind it is.
    #[must_use]
    pub const fn root(&self) -> &[u8; 32] {
        match self {
            Self::Pack(id) => id.as_bytes(),
            Self::Fragment(id) => id.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut { needed: 6, total: 24, extent_bytes: 256 << 10 };

    fn sheet() -> Sheet {
        Sheet {
            service: ServiceName::new("mail").unwrap(),
            pack: PackRef { id: PackId::of(b"pack"), bytes: 1_000_000 },
            cut: CUT,
            fragments: (0..24).map(|number| FragmentId::of(&[number])).collect(),
        }
    }

    #[test]
    fn a_fragment_has_a_share_of_each_extent() {
        assert_eq!(CUT.fragment_bytes(0), 0);
        assert_eq!(CUT.fragment_bytes(1), 1);
        assert_eq!(CUT.fragment_bytes(256 << 10), 43_691);
        assert_eq!(CUT.fragment_bytes((256 << 10) + 7), 43_693);
    }

    #[test]
    fn a_cut_in_groups_has_shards_of_a_group() {
        let cut = Cut::in_groups(6, 24).unwrap();
        assert_eq!(cut.shard_bytes(u64::from(cut.extent_bytes)), limits::GROUP_BYTES);
        assert_eq!(Cut::in_groups(1, 24), None);
        assert_eq!(Cut::in_groups(65, 255), None, "more than an extent may have");
    }

    #[test]
    fn a_sheet_is_read_as_it_was_written() {
        let sheet = sheet();
        sheet.check().unwrap();
        let bytes = sheet.encode().unwrap();
        assert_eq!(Sheet::decode(&bytes).unwrap(), sheet);
        assert!(Sheet::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_sheet_that_contradicts_itself_is_refused() {
        let refused = |change: fn(&mut Sheet)| {
            let mut sheet = sheet();
            change(&mut sheet);
            sheet.check().unwrap_err()
        };
        assert_eq!(refused(|sheet| sheet.fragments.truncate(23)), CutError::Names { total: 24, found: 23 });
        let too_large = limits::PACK_BYTES_MAX + 1;
        assert_eq!(
            refused(|sheet| sheet.pack.bytes = limits::PACK_BYTES_MAX + 1),
            CutError::Pack { bytes: too_large }
        );
        for cut in [
            Cut { needed: 1, ..CUT },
            Cut { needed: 25, ..CUT },
            Cut { extent_bytes: 0, ..CUT },
            Cut { extent_bytes: u32::MAX, ..CUT },
        ] {
            assert!(matches!(cut.check(), Err(CutError::Code { .. })), "{cut:?}");
        }
    }

    #[test]
    fn the_largest_sheet_fits() {
        let mut sheet = sheet();
        sheet.service = ServiceName::new("m".repeat(limits::SERVICE_NAME_BYTES_MAX)).unwrap();
        sheet.cut.total = u8::MAX;
        sheet.fragments = vec![FragmentId::of(b"fragment"); usize::from(u8::MAX)];
        sheet.check().unwrap();
        assert!(sheet.encode().unwrap().len() <= limits::SHEET_BYTES_MAX);
    }
}
