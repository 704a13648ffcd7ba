//! Reading a journal as it is on the disk.

use std::io;
use std::path::Path;

use super::Journal;
use super::contents::{Changes, Contents};
use super::frames::{self, HEADER_BYTES, Salt};
use crate::disk::{Disk, DiskFile};
use crate::error::{DiskContext, is_loop};
use crate::{Fault, limits};

/// Reads a journal's bytes as fuzzing has them.
pub(crate) fn try_read(bytes: &[u8]) {
    let Ok(salt) = frames::read_header(bytes) else { return };
    let (mut contents, mut at) = (Contents::default(), HEADER_BYTES);
    while let Some((changes, length)) = frames::read_frame::<Changes>(salt, at as u64, &bytes[at..]) {
        contents.change(&changes);
        at += length;
    }
    frames::follows::<Changes>(salt, at as u64, &bytes[at..]);
}

/// What was found.
pub(super) enum Loaded {
    Missing,
    Damaged(String),
    Whole(Journal, Contents),
}

/// Opens a journal and reads it all. A disk that fails is no damage: making the database anew on it would lose the
/// durable marks.
pub(super) fn load(disk: &dyn Disk, path: &Path) -> Result<Loaded, Fault> {
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
        Err(error) if is_loop(&error) => return Err(Fault::reading(path, error)),
        Err(error) => return Err(error).during("open", path),
    };
    let bytes = file.bytes().during("look at", path)?;
    if bytes > limits::DATABASE_BYTES_MAX {
        return Ok(Loaded::Damaged(format!("a database can't have {bytes} bytes")));
    }
    let all = match read(file.as_ref(), path, 0..bytes) {
        Err(Fault::Disk { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Loaded::Damaged("it is cut short".to_owned()));
        }
        Err(Fault::Disk { source, .. }) if source.kind() == io::ErrorKind::IsADirectory => {
            return Err(Fault::damaged(path, "this is a folder"));
        }
        other => other?,
    };
    Ok(match scan(&all) {
        Ok((salt, contents, ends)) => Loaded::Whole(Journal::new(file, path, salt, ends)?, contents),
        Err(reason) => Loaded::Damaged(reason),
    })
}

/// The salt, what the frames say together, and where the first of them and the last end.
fn scan(bytes: &[u8]) -> Result<(Salt, Contents, (u64, u64)), String> {
    let salt = frames::read_header(bytes)?;
    let (mut contents, mut at, mut first) = (Contents::default(), HEADER_BYTES, None);
    while let Some((changes, length)) = frames::read_frame::<Changes>(salt, at as u64, &bytes[at..]) {
        contents.change(&changes);
        at += length;
        first.get_or_insert(at as u64);
    }
    let first = first.ok_or("its beginning is damaged")?;
    if frames::follows::<Changes>(salt, at as u64, &bytes[at..]) {
        return Err("its checksums do not match".to_owned());
    }
    Ok((salt, contents, (first, at as u64)))
}

pub(super) fn read(file: &dyn DiskFile, path: &Path, range: std::ops::Range<u64>) -> Result<Vec<u8>, Fault> {
    let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if bytes as u64 > limits::DATABASE_BYTES_MAX {
        return Err(Fault::damaged(path, "it is too large"));
    }
    let mut all = vec![0; bytes];
    if bytes > 0 {
        file.read_at(range.start, &mut all).during("read", path)?;
    }
    Ok(all)
}
