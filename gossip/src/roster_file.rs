//! The file with a node's roster: replaced whole, and synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sustain_proto::{CodecError, Fact, Format};

use crate::limits;
use crate::membership::Roster;

const FORMAT: Format =
    Format { name: "roster", magic: *b"SURf", version: 1, bytes_max: limits::ROSTER_FILE_BYTES_MAX };

#[derive(Serialize, Deserialize)]
struct Body {
    facts: Vec<Fact>,
}

/// Why a file that belongs to the roster can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RosterFileError {
    /// The disk fails.
    #[error("can't {action} {path}")]
    Disk {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
}

/// Writes the file of a node that has not started yet.
///
/// # Errors
/// If the disk fails.
pub fn save_roster(path: &Path, roster: &Roster) -> Result<(), RosterFileError> {
    save(path, roster.facts().iter().collect())
}

/// Replaces the file with these facts.
pub(crate) fn save(path: &Path, facts: Vec<Fact>) -> Result<(), RosterFileError> {
    let bytes = sustain_proto::encode(FORMAT, &Body { facts });
    let bytes = bytes.map_err(|source| RosterFileError::Damaged { path: path.to_owned(), source })?;
    replace(path, &bytes)
}

/// The facts in a file; none if there is no file.
pub(crate) fn load(path: &Path) -> Result<Option<Vec<Fact>>, RosterFileError> {
    let Some(bytes) = read(path, limits::ROSTER_FILE_BYTES_MAX)? else { return Ok(None) };
    let body: Body = sustain_proto::decode(FORMAT, &bytes)
        .map_err(|source| RosterFileError::Damaged { path: path.to_owned(), source })?;
    Ok(Some(body.facts))
}

/// Reads a file that may have so many bytes and not be there.
pub(crate) fn read(path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>, RosterFileError> {
    let failed = |source| RosterFileError::Disk { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Replaces a file, all or nothing.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RosterFileError> {
    let failed = |source| RosterFileError::Disk { action: "write", path: path.to_owned(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(failed)
}
