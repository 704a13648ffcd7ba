//! What a node gives to its cluster at most.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use sustain_gossip::Share;

use super::Bytes;

/// Least that `upload` may be: transfers that take turns on less would be taken for stalled.
const UPLOAD_MIN: u64 = 256 << 10;

/// The table `share`: a node is somebody's machine. What is left out has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ShareConfig {
    /// Bytes of packs in the store past which the node takes no snapshot that others offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Bytes>,
    /// Bytes a second of snapshots that it sends, to all others together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<Bytes>,
    /// Processor cores that the node uses, with its VMs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<NonZeroUsize>,
}

impl ShareConfig {
    /// Whether there is no limit at all.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// As the cluster is told.
    #[must_use]
    pub fn given(&self) -> Share {
        Share {
            storage_bytes: self.storage.map(Bytes::get),
            upload_bytes_per_second: self.upload.map(Bytes::get),
        }
    }

    /// Checks that the values can work.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.upload {
            Some(upload) if upload.get() < UPLOAD_MIN => {
                let least = Bytes::new(UPLOAD_MIN);
                Err(format!("`share`: upload is {upload} a second, at least {least} are needed"))
            }
            _ => Ok(()),
        }
    }
}
