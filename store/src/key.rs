//! Where a store's keys come from, and the note in its folder of whose they are.
//!
//! A store that is used by itself has its services' secrets in files of its own (key_files.rs). One that belongs to a
//! cluster has a file `key` with the id of the secret that it was given: a title with the version, `given` with the id,
//! and a checksum over the two lines before.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use sustain_proto::{KeyId, ServiceName};

use crate::disk::Disk;
use crate::error::DiskContext;
use crate::keys::Ring;
use crate::layout::Layout;
use crate::open::OpenError;
use crate::publish::{TemporaryFile, new_name};
use crate::secret::{Secret, Secrets, check};
use crate::state::State;
use crate::store::KeyNote;
use crate::{Fault, key_files, limits};

const TITLE: &str = "sustain store key, version 1";

/// Where the secrets come from that services' keys are derived from.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The store's own files `keys/SERVICE`, each made on the first push of its service.
    Own,
    /// Given from outside: a secret from which the key of each service is derived. The store keeps its id only.
    Given([u8; 32]),
    /// Given from outside: a cluster's.
    Cluster(ClusterKeys),
    /// There is none here: what others have sealed is kept, checked and handed on, and never read.
    None,
}

/// The secrets of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterKeys {
    /// What the keys of all services are derived from that are not named below. None: they are not here.
    pub secrets: Option<Secrets>,
    /// Services with secrets of their own. None: they are not here.
    pub services: BTreeMap<ServiceName, Option<Secrets>>,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Given(_) => "Given(..)",
            Self::Cluster(_) => "Cluster(..)",
            Self::None => "None",
        })
    }
}

/// Reads what the folder says, and puts the keys together.
pub(crate) fn read_keys(
    disk: &dyn Disk,
    layout: &Layout,
    source: KeySource,
) -> Result<(Ring, KeyNote), OpenError> {
    let path = || layout.root().to_owned();
    let noted = read_note(disk, layout)?;
    let given = match source {
        KeySource::None => return Ok((Ring::default(), KeyNote { own: false, on_disk: noted.is_some() })),
        KeySource::Own if noted.is_some() => return Err(OpenError::ClusterKey { path: path() }),
        KeySource::Own => {
            let mut ring = Ring::default();
            for (service, secrets) in key_files::read_all(disk, layout)? {
                ring.set_read(&service, secrets);
            }
            return Ok((ring, KeyNote { own: true, on_disk: true }));
        }
        KeySource::Given(secret) => {
            let secrets = Secrets::one(Secret::from_bytes(secret));
            ClusterKeys { secrets: Some(secrets), services: BTreeMap::new() }
        }
        KeySource::Cluster(given) => given,
    };
    // One that was made with an older secret is to say the newest from now on: the older may go one day.
    let mut on_disk = true;
    if let Some(secrets) = &given.secrets {
        if noted.is_some_and(|id| secrets.iter().all(|secret| secret.id() != id)) {
            return Err(OpenError::WrongKey { path: path() });
        }
        on_disk = noted == Some(secrets.newest().id());
    }
    Ok((Ring::given(given), KeyNote { own: false, on_disk }))
}

/// Where the folder does not say which secret it was made with, its manifests do.
pub(crate) fn compare_keys(layout: &Layout, state: &State, ring: &Ring) -> Result<(), OpenError> {
    if ring.newest_root().is_none() {
        return Ok(());
    }
    let derived = state.snapshots.values().filter(|s| !ring.has_own(&s.manifest.service));
    let mut ids = derived.map(|snapshot| snapshot.manifest.key).peekable();
    if ids.peek().is_none() || ids.any(|id| ring.find(id).is_some()) {
        Ok(())
    } else {
        Err(OpenError::WrongKey { path: layout.root().to_owned() })
    }
}

/// The id of the secret that the folder was made with, if it was given one.
pub(crate) fn read_note(disk: &dyn Disk, layout: &Layout) -> Result<Option<KeyId>, Fault> {
    let path = layout.key();
    let Some(text) = read_text(disk, &path)? else { return Ok(None) };
    parse(&text).map(Some).map_err(|reason| Fault::damaged(&path, reason))
}

/// Writes the note so that it is there whole or not at all.
pub(crate) fn write_note(disk: &Arc<dyn Disk>, layout: &Layout, id: KeyId) -> Result<(), Fault> {
    write_text(disk, layout, &layout.key(), &format(id))?;
    disk.sync_folder(layout.root()).during("sync", layout.root())
}

/// Reads a small file of text, if there is one.
pub(crate) fn read_text(disk: &dyn Disk, path: &std::path::Path) -> Result<Option<String>, Fault> {
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Fault::reading(path, error)),
    };
    let bytes = file.bytes().during("read", path)?;
    if bytes > limits::KEY_FILE_BYTES_MAX {
        return Err(Fault::damaged(path, "it is too large for a key"));
    }
    let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_at(0, &mut text).map_err(|error| Fault::reading(path, error))?;
    String::from_utf8(text).map(Some).map_err(|_| Fault::damaged(path, "it is no text"))
}

/// Writes a file of text in place of what has its name. The caller syncs the folder.
pub(crate) fn write_text(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    path: &std::path::Path,
    text: &str,
) -> Result<(), Fault> {
    let temporary = TemporaryFile::create(disk, layout.temporaries().join(new_name("key")?))?;
    temporary.file().write_at(0, text.as_bytes()).during("write", temporary.path())?;
    temporary.file().sync().during("sync", temporary.path())?;
    temporary.rename(path)
}

fn format(id: KeyId) -> String {
    let body = format!("{TITLE}\ngiven {id}\n");
    let check = check(&body);
    format!("{body}check {check}\n")
}

pub(crate) fn parse(text: &str) -> Result<KeyId, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err("it is no key of a version that this build reads");
    }
    let line = lines.next().ok_or("it is cut short")?;
    let id = line.strip_prefix("given ").and_then(|digits| digits.parse().ok()).ok_or("it names no key")?;
    if text == format(id) { Ok(id) } else { Err("its checksum does not match") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back_and_any_changed_byte_is_refused() {
        let id = KeyId::from_bytes([9; 8]);
        let text = format(id);
        assert_eq!(parse(&text), Ok(id));
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 1;
            assert!(parse(&String::from_utf8(bytes).unwrap()).is_err(), "byte {position}");
        }
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "cut at {end}");
        }
    }
}
