//! The file that says what a disk is: written once, when its folder is made.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "disk.json";
const VERSION: u32 = 1;
/// Longest description read.
const BYTES_MAX: u64 = 64 << 10;

/// What a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    version: u32,
    pub(crate) disk_bytes: u64,
    pub(crate) base: BaseKind,
    /// Whether a flush reaches the medium.
    pub(crate) syncs: bool,
}

/// What lies below all layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum BaseKind {
    /// A raw image.
    Image { path: PathBuf, bytes: u64 },
    /// Chunks that are asked for.
    Lazy,
}

impl Description {
    pub(crate) fn new(disk_bytes: u64, base: BaseKind, syncs: bool) -> Self {
        Self { version: VERSION, disk_bytes, base, syncs }
    }

    /// Reads it.
    pub(crate) fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let wrong =
            |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", path.display()));
        if fs::metadata(&path)?.len() > BYTES_MAX {
            return Err(wrong("is too long".to_owned()));
        }
        let found: Self = serde_json::from_slice(&fs::read(&path)?)
            .map_err(|error| wrong(format!("is damaged: {error}")))?;
        if found.version != VERSION {
            return Err(wrong(format!("has version {}, this program knows {VERSION}", found.version)));
        }
        Ok(found)
    }

    /// Writes it, all or nothing.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        let made = folder.join("disk.json.new");
        let mut file = File::create(&made)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(made, folder.join(FILE))
    }
}
