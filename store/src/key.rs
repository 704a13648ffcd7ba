//! The store's own key: the file that keeps it, or remembers which one was given.
//!
//! The file is text of three lines: a title with the version, `secret` or `fingerprint` in hexadecimal,
//! and a checksum over the two lines before, so that a damaged key is not taken for another one.

use std::fmt;
use std::fmt::Write as _;
use std::io;

use sustain_proto::KeyId;

use crate::disk::Disk;
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::publish::{TemporaryFile, new_name};
use crate::{Fault, limits};

const TITLE: &str = "sustain store key, version 1";

/// Where the secret comes from that services are sealed under which have no key of their own.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The store's own file `key`, made on the first push.
    Own,
    /// Given from outside: the cluster's. The store keeps its id only.
    Given([u8; 32]),
    /// There is none here: what others have sealed is kept, checked and handed on, and never read.
    None,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Given(_) => "Given(..)",
            Self::None => "None",
        })
    }
}

/// What the key's file says.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum KeyFile {
    /// The store's own secret.
    Secret([u8; 32]),
    /// The id of a key that somebody else keeps.
    Fingerprint(KeyId),
}

impl KeyFile {
    fn format(&self) -> String {
        let (word, bytes): (_, &[u8]) = match self {
            Self::Secret(secret) => ("secret", secret),
            Self::Fingerprint(id) => ("fingerprint", id.as_bytes()),
        };
        let body = format!("{TITLE}\n{word} {}\n", hex(bytes));
        let check = check(&body);
        format!("{body}check {check}\n")
    }

    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err("it is no key of a version that this build reads");
        }
        let line = lines.next().ok_or("it is cut short")?;
        let body = format!("{TITLE}\n{line}\n");
        if text != format!("{body}check {}\n", check(&body)) {
            return Err("its checksum does not match");
        }
        match line.split_once(' ') {
            Some(("secret", digits)) => unhex(digits).map(Self::Secret),
            Some(("fingerprint", digits)) => digits.parse().ok().map(Self::Fingerprint),
            _ => None,
        }
        .ok_or("it holds no key")
    }

    /// Reads the file, if there is one.
    pub(crate) fn read(disk: &dyn Disk, layout: &Layout) -> Result<Option<Self>, Fault> {
        let path = layout.key();
        let file = match disk.open(&path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).during("open", &path),
        };
        let bytes = file.bytes().during("read", &path)?;
        if bytes > limits::KEY_FILE_BYTES_MAX {
            return Err(Fault::damaged(&path, "it is too large for a key"));
        }
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.read_at(0, &mut text).map_err(|error| Fault::reading(&path, error))?;
        let text = String::from_utf8(text).map_err(|_| Fault::damaged(&path, "it is no text"))?;
        Self::parse(&text).map(Some).map_err(|reason| Fault::damaged(&path, reason))
    }

    /// Writes the file so that it is there whole or not at all.
    pub(crate) fn write(&self, disk: &std::sync::Arc<dyn Disk>, layout: &Layout) -> Result<(), Fault> {
        let path = layout.key();
        let temporary = TemporaryFile::create(disk, layout.temporaries().join(new_name("key")?))?;
        temporary.file().write_at(0, self.format().as_bytes()).during("write", temporary.path())?;
        temporary.file().sync().during("sync", temporary.path())?;
        temporary.rename(&path)?;
        disk.sync_folder(layout.root()).during("sync", layout.root())
    }
}

/// A new secret from the system.
pub(crate) fn new_secret() -> Result<[u8; 32], Fault> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Fault::Random { reason: error.to_string() })?;
    Ok(secret)
}

fn check(body: &str) -> String {
    hex(&blake3::hash(body.as_bytes()).as_bytes()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a text can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != N * 2 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[position * 2..position * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back() {
        for file in [KeyFile::Secret([7; 32]), KeyFile::Fingerprint(KeyId::from_bytes([9; 8]))] {
            assert!(KeyFile::parse(&file.format()) == Ok(file));
        }
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let text = KeyFile::Secret([0x5a; 32]).format();
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 1;
            let text = String::from_utf8(bytes).unwrap();
            assert!(KeyFile::parse(&text).is_err(), "byte {position}");
        }
        for end in 0..text.len() {
            assert!(KeyFile::parse(&text[..end]).is_err(), "cut at {end}");
        }
    }
}
