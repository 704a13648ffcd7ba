//! What a mount's inodes stand for, and their numbers.

use std::sync::{Arc, OnceLock};

use sustain_proto::{Manifest, Region, ServiceName, SnapshotId};

/// The number of the top folder; FUSE demands it.
pub(crate) const ROOT: u64 = 1;

/// The name of the link to a service's newest snapshot.
pub(crate) const LATEST: &str = "latest";

/// The name of a snapshot's description.
pub(crate) const MANIFEST: &str = "manifest.json";

/// A snapshot that the kernel knows of.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) id: SnapshotId,
    pub(crate) manifest: Manifest,
    /// Bytes of each region that are not zero, once somebody has asked.
    pub(crate) data_bytes: OnceLock<Vec<u64>>,
}

/// What an inode stands for.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// The top folder: one folder a service.
    Root,
    /// A service: one folder a snapshot, and the link to the newest.
    Service(ServiceName),
    /// The link to the newest snapshot.
    Latest(ServiceName),
    /// The link from another name of a snapshot, a former id or the beginning of one.
    Alias(ServiceName, String),
    /// A snapshot: its description and its regions.
    Snapshot(Arc<Shown>),
    /// A snapshot's description, as text.
    Manifest(Arc<Shown>, Arc<[u8]>),
    /// A region, by its number.
    Region(Arc<Shown>, usize),
}

/// The kinds of inodes that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    Link,
    File,
}

impl Node {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Root | Self::Service(_) | Self::Snapshot(_) => Kind::Folder,
            Self::Latest(_) | Self::Alias(..) => Kind::Link,
            Self::Manifest(..) | Self::Region(..) => Kind::File,
        }
    }

    /// The region that it is, if it is one.
    pub(crate) fn region(&self) -> Option<&Region> {
        match self {
            Self::Region(shown, number) => shown.manifest.regions.get(*number),
            _ => None,
        }
    }

    /// Its path below the mount point.
    pub(crate) fn path(&self) -> String {
        let below = |shown: &Shown, name: &str| format!("{}/{}/{name}", shown.manifest.service, shown.id);
        match self {
            Self::Root => String::new(),
            Self::Service(service) => service.to_string(),
            Self::Latest(service) => format!("{service}/{LATEST}"),
            Self::Alias(service, name) => format!("{service}/{name}"),
            Self::Snapshot(shown) => format!("{}/{}", shown.manifest.service, shown.id),
            Self::Manifest(shown, _) => below(shown, MANIFEST),
            Self::Region(shown, _) => below(shown, self.region().map_or("", |region| region.name.as_str())),
        }
    }

    /// What tells it from all others: its path, marked where a link is in the place of what was a folder.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Alias(..) => self.path() + "@",
            _ => self.path(),
        }
    }

    /// Its inode's number, the same in every mount: 63 bits of its key's hash.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Root => ROOT,
            _ => number_of(&self.key()),
        }
    }
}

/// The number of what has this key, which is not the top folder.
pub(crate) fn number_of(key: &str) -> u64 {
    let hash = blake3::hash(key.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    // Zero and one are taken, and some programs take numbers for signed.
    (u64::from_le_bytes(bytes) >> 1).max(ROOT + 1)
}
