//! Pins that people set by name: a snapshot that stays, whatever rebases do.
//!
//! Each is a small file, not a row of the database: that can be made anew from packs and manifests, and a pin can't.
//! It names its snapshot by what no rebase changes, so that no rebase has to touch it, and so that it holds on every
//! node that has a copy of it.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use sustain_proto::{
    CodecError, ContentHash, Format, PinName, ServiceName, SnapshotId, Term, decode, encode,
};

use crate::disk::Disk;
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::publish::{TemporaryFile, new_name};
use crate::state::{Snapshot, State};
use crate::store::Store;
use crate::{ErrorKind, Fault, ReadError, limits};

const FORMAT: Format = Format { name: "pin", magic: *b"SUSn", version: 1, bytes_max: limits::PIN_BYTES_MAX };

/// What a rebase does not change of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Identity {
    service: ServiceName,
    term: Term,
    seq: u64,
    content: ContentHash,
}

impl Identity {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let manifest = &snapshot.manifest;
        let service = manifest.service.clone();
        Self { service, term: manifest.term, seq: manifest.seq, content: manifest.identity() }
    }
}

/// A pin's file.
#[derive(Debug, Serialize, Deserialize)]
struct PinFile {
    identity: Identity,
    /// Its id when it was pinned, for people.
    pinned_as: SnapshotId,
}

/// All pins of a store: which names hold a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NamedPins(BTreeMap<Identity, Vec<PinName>>);

impl NamedPins {
    /// The names that hold a snapshot.
    pub(crate) fn of(&self, snapshot: &Snapshot) -> &[PinName] {
        self.0.get(&Identity::of(snapshot)).map_or(&[], Vec::as_slice)
    }

    /// Reads them all. One that can't be read is an error: nobody knows what it is to keep.
    pub(crate) fn read(disk: &dyn Disk, layout: &Layout) -> Result<Self, Fault> {
        let mut pins: BTreeMap<Identity, Vec<PinName>> = BTreeMap::new();
        for (name, file) in read_files(disk, layout)? {
            pins.entry(file.identity).or_default().push(name);
        }
        Ok(Self(pins))
    }
}

fn read_files(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(PinName, PinFile)>, Fault> {
    let folder = layout.pins();
    let entries = match disk.list(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::listing(&folder, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        // What people put there besides is not ours.
        let Ok(name) = PinName::new(entry.name) else { continue };
        if entry.folder {
            return Err(Fault::damaged(&layout.pin(&name), "this is a folder"));
        }
        files.push((name.clone(), read_file(disk, layout, &name)?));
    }
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

fn read_file(disk: &dyn Disk, layout: &Layout, name: &PinName) -> Result<PinFile, Fault> {
    let path = layout.pin(name);
    let reading = |error| Fault::reading(&path, error);
    let file = disk.open(&path, false).map_err(reading)?;
    let bytes = file.bytes().map_err(reading)?;
    if bytes > limits::PIN_BYTES_MAX as u64 {
        return Err(Fault::damaged(&path, format!("a pin can't have {bytes} bytes")));
    }
    let mut encoded = vec![0; bytes as usize];
    file.read_at(0, &mut encoded).map_err(reading)?;
    PinFile::decode(&encoded).map_err(|reason| Fault::damaged(&path, reason))
}

/// Bytes of the check at a pin's end: a flipped bit must not make it the pin of another snapshot, or of none.
const CHECK_BYTES: usize = 16;

fn check(encoded: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::hash(encoded);
    std::array::from_fn(|at| hash.as_bytes()[at])
}

impl PinFile {
    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut encoded = encode(FORMAT, self)?;
        encoded.extend(check(&encoded));
        Ok(encoded)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (encoded, found) = bytes.split_last_chunk().ok_or("it is cut short")?;
        if check(encoded) != *found {
            return Err("its checksum does not match".to_owned());
        }
        decode(FORMAT, encoded).map_err(|error| error.to_string())
    }
}

/// Reads a pin's bytes as fuzzing has them, whatever their check says.
pub(crate) fn try_decode(bytes: &[u8]) {
    let _ = PinFile::decode(bytes);
    let _ = decode::<PinFile>(FORMAT, bytes);
}

/// A pin as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedPin {
    /// Its name.
    pub name: PinName,
    /// Whose snapshot it holds.
    pub service: ServiceName,
    /// The snapshot's number.
    pub seq: u64,
    /// The snapshot's id; none if it is not here.
    pub snapshot: Option<SnapshotId>,
    /// The id that it had when it was pinned.
    pub pinned_as: SnapshotId,
}

/// Why a pin is not set or taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Another snapshot has a pin of this name.
    #[error("there is a pin {name} already, of another snapshot")]
    Exists {
        /// The name.
        name: PinName,
    },
    /// There is no such pin.
    #[error("there is no pin {name} here")]
    Absent {
        /// The name.
        name: PinName,
    },
    /// There are as many pins as there may be.
    #[error("there are {max} pins already, and no more are allowed")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The pin can't be put into words.
    #[error("could not encode the pin")]
    Encode(#[from] sustain_proto::CodecError),
    /// The snapshot is not here.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl PinError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists { .. } | Self::TooMany { .. } | Self::Encode(_) => ErrorKind::Refused,
            Self::Absent { .. } => ErrorKind::NotFound,
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}

impl Store {
    /// Keeps a snapshot, under this name, until it is unpinned. Doing it again changes nothing.
    ///
    /// # Errors
    /// If the snapshot is not here, another one has a pin of this name, or the disk is full or fails.
    pub fn pin(&self, snapshot: SnapshotId, name: &PinName) -> Result<NamedPin, PinError> {
        let shared = &self.shared;
        // Held until the pin is there: a rebase looks at the pins under it once more.
        let _commit = shared.begin_commit()?;
        let snapshot = {
            let state = shared.state();
            let found = state.follow(snapshot);
            found.ok_or_else(|| ReadError::NotFound { selector: snapshot.to_string() })?
        };
        let identity = Identity::of(&snapshot);
        let files = read_files(shared.disk.as_ref(), &shared.layout)?;
        if let Some((_, file)) = files.iter().find(|(taken, _)| taken == name) {
            if file.identity != identity {
                return Err(PinError::Exists { name: name.clone() });
            }
            return Ok(describe(&shared.state(), name.clone(), file));
        }
        if files.len() >= limits::NAMED_PINS_MAX {
            return Err(PinError::TooMany { max: limits::NAMED_PINS_MAX });
        }
        let file = PinFile { identity, pinned_as: snapshot.id };
        let encoded = file.encode()?;
        let folder = shared.layout.pins();
        shared.disk.create_folder(&folder).during("create", &folder)?;
        let root = shared.layout.root();
        shared.disk.sync_folder(root).during("sync", root)?;
        let temporary =
            TemporaryFile::create(&shared.disk, shared.layout.temporaries().join(new_name("pin")?))?;
        temporary.file().write_at(0, &encoded).during("write", temporary.path())?;
        temporary.file().sync().during("sync", temporary.path())?;
        temporary.rename(&shared.layout.pin(name))?;
        shared.disk.sync_folder(&folder).during("sync", &folder)?;
        Ok(describe(&shared.state(), name.clone(), &file))
    }

    /// Takes a pin away. What only it kept goes at the next rebase.
    ///
    /// # Errors
    /// If there is none of this name, or the disk fails.
    pub fn unpin(&self, name: &PinName) -> Result<(), PinError> {
        let shared = &self.shared;
        let _commit = shared.begin_commit()?;
        let path = shared.layout.pin(name);
        match shared.disk.remove(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PinError::Absent { name: name.clone() });
            }
            Err(error) => return Err(error).during("remove", &path).map_err(Into::into),
        }
        let folder = shared.layout.pins();
        Ok(shared.disk.sync_folder(&folder).during("sync", &folder)?)
    }

    /// The pins that people have set, by name.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn pins(&self) -> Result<Vec<NamedPin>, PinError> {
        let shared = &self.shared;
        let files = read_files(shared.disk.as_ref(), &shared.layout)?;
        let state = shared.state();
        Ok(files.into_iter().map(|(name, file)| describe(&state, name, &file)).collect())
    }
}

fn describe(state: &State, name: PinName, file: &PinFile) -> NamedPin {
    let same = state.all_of_service(&file.identity.service);
    // The newest form of it.
    let snapshot = same.iter().rev().find(|snapshot| Identity::of(snapshot) == file.identity);
    NamedPin {
        name,
        service: file.identity.service.clone(),
        seq: file.identity.seq,
        snapshot: snapshot.map(|snapshot| snapshot.id),
        pinned_as: file.pinned_as,
    }
}
