//! Logic: what a node stores of a pack: all of it, or one of its fragments.

use serde::{Deserialize, Serialize};
use sustain_proto::limits::PACK_BYTES_MAX;
use sustain_proto::{Cut, PackId};

use crate::holdings::Fragment;

/// A pack that is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The pack.
    pub id: PackId,
    /// Its bytes.
    pub bytes: u64,
    /// How it is cut; none where every node holds all of it.
    pub cut: Option<Cut>,
    /// The BLAKE3 of the encoded sheet that names its fragments: there exactly if it is cut.
    pub sheet: Option<[u8; 32]>,
    /// The number of the catalog in which it first stood. Entries that list it come and go.
    pub added: u64,
}

/// All of a pack, or one of its fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Which {
    /// All of it.
    Whole,
    /// The fragment with this number.
    Fragment(Fragment),
}

/// What is stored, asked for and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// Of this pack.
    pub pack: PackId,
    /// What of it.
    pub which: Which,
}

impl Pack {
    /// Whether its numbers can be true.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.bytes <= PACK_BYTES_MAX
            && self.cut.is_none_or(|cut| cut.check().is_ok())
            && self.cut.is_some() == self.sheet.is_some()
    }

    /// All of this pack.
    #[must_use]
    pub fn whole(&self) -> Part {
        Part { pack: self.id, which: Which::Whole }
    }

    /// What a node with this index holds of it: all, if it is not cut.
    #[must_use]
    pub fn share(&self, index: Fragment) -> Part {
        let which = if self.cut.is_some() { Which::Fragment(index) } else { Which::Whole };
        Part { pack: self.id, which }
    }

    /// Bytes of a part of it.
    #[must_use]
    pub fn part_bytes(&self, which: Which) -> u64 {
        match (which, self.cut) {
            (Which::Fragment(_), Some(cut)) => cut.fragment_bytes(self.bytes),
            _ => self.bytes,
        }
    }

    /// Fragments that rebuild it (k); 1 if it is not cut.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.cut.map_or(1, |cut| usize::from(cut.needed))
    }
}
