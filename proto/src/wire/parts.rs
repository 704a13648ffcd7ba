//! Asking a node for bytes of a part of a pack, which is all of it or one of its fragments (P11).

use serde::{Deserialize, Serialize};

use super::{WireError, at_most};
use crate::{GroupValue, NodeId, PackId, bounded, limits};

/// Bytes of a part from the first one on, up to the second one, which is not in it.
pub type ByteRange = (u64, u64);

/// Bytes of a part, please.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The pack.
    pub pack: PackId,
    /// Which of its fragments; none for the pack as a whole.
    pub fragment: Option<u8>,
    /// What is missing: any of it, in one range, will do. At most [`limits::MESSAGE_ASKED_RANGES_MAX`], in order,
    /// each from the beginning of a group on.
    #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_ASKED_RANGES_MAX }>")]
    pub missing: Vec<ByteRange>,
    /// Nobody else could be found for a while.
    pub is_stuck: bool,
    /// Whether the values of the part's groups are to come first, and the sheet of a fragment.
    pub wants_list: bool,
}

impl Ask {
    pub(super) fn check(&self) -> Result<(), WireError> {
        check_ranges(&self.missing)
    }
}

/// These bytes follow, raw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// What comes: a part of what was missing.
    pub range: ByteRange,
    /// The values of all groups of the part, if they were asked for, at most [`limits::PART_GROUPS_MAX`].
    #[serde(deserialize_with = "bounded::list::<_, _, { limits::PART_GROUPS_MAX }>")]
    pub groups: Vec<GroupValue>,
    /// The encoded sheet, if it was asked for and the part is a fragment.
    pub sheet: Option<Vec<u8>>,
}

impl Granted {
    pub(super) fn check(&self) -> Result<(), WireError> {
        let (groups, sheet) = (self.groups.len() as u64, self.sheet.as_ref().map_or(0, Vec::len) as u64);
        at_most("groups", groups, limits::PART_GROUPS_MAX as u64)?;
        at_most("bytes of a sheet", sheet, limits::SHEET_BYTES_MAX as u64)?;
        check_ranges(&[self.range])
    }
}

/// Why no bytes of a part come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Denial {
    /// None of what is missing is here.
    Lack {
        /// What is here, as in [`Ask::missing`].
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::PART_GROUPS_MAX }>")]
        have: Vec<ByteRange>,
        /// Whether more will come.
        is_coming: bool,
    },
    /// Too much is being sent.
    Busy,
    /// Others have them, or will.
    Elsewhere {
        /// These, at most [`limits::MESSAGE_HINTS_MAX`].
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_HINTS_MAX }>")]
        nodes: Vec<NodeId>,
    },
}

impl Denial {
    pub(super) fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Lack { have, .. } => {
                at_most("ranges", have.len() as u64, limits::PART_GROUPS_MAX as u64)?;
                check_order(have)
            }
            Self::Busy => Ok(()),
            Self::Elsewhere { nodes } => {
                at_most("nodes", nodes.len() as u64, limits::MESSAGE_HINTS_MAX as u64)
            }
        }
    }
}

fn check_ranges(ranges: &[ByteRange]) -> Result<(), WireError> {
    at_most("ranges", ranges.len() as u64, limits::MESSAGE_ASKED_RANGES_MAX as u64)?;
    check_order(ranges)
}

/// Each begins where a group does, after the end of the one before, and ends after its beginning.
fn check_order(ranges: &[ByteRange]) -> Result<(), WireError> {
    let mut end = 0;
    for (position, range) in ranges.iter().enumerate() {
        at_most("bytes of offset", range.1, limits::PACK_BYTES_MAX)?;
        at_most("bytes before a group", range.0 % limits::GROUP_BYTES, 0)?;
        at_most("bytes before the range that they end", end + u64::from(position > 0), range.0)?;
        at_most("bytes before the end of a range", range.0 + 1, range.1)?;
        end = range.1;
    }
    Ok(())
}
