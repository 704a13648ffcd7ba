//! A disk in the node's hands.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sustain_store::RegionSource;

use super::blocks::{BlockSource, Server};
use super::control::{DiskStatus, Reply, Request};
use super::description::{BaseKind, Description};
use super::error::DiskError;
use super::frozen::FrozenSource;
use super::layer::Layer;
use super::lazy::{CACHE, cache_geometry};
use super::ranges::union;
use super::stack::Stack;
use super::stamp::Stamp;
use super::supervisor::{Plan, Supervisor};
use super::{BLOCK_SOCKET, NBD_SOCKET};
use crate::limits::{CONTROL_TIMEOUT, DISK_BYTES_MAX, FREEZE_TIMEOUT, SOCKET_PATH_BYTES_MAX};

/// What a disk has before anything is written to it.
#[derive(Clone)]
pub enum DiskOrigin {
    /// A raw image, which is never written to (see [`super::raw_image`]).
    Image(PathBuf),
    /// A snapshot's blocks, fetched as they are needed.
    Blocks(Arc<dyn BlockSource>),
}

impl fmt::Debug for DiskOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(path) => f.debug_tuple("Image").field(path).finish(),
            Self::Blocks(_) => f.write_str("Blocks"),
        }
    }
}

/// How a disk is run.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// The program, and its arguments before the folder, whose whole work is [`super::serve`].
    pub server: Vec<OsString>,
    /// Whether what the guest flushes is synced to the host's medium. Without, it survives the death of
    /// every process, and not the host's: but the VM itself dies with its host, and goes on elsewhere from a
    /// snapshot, which has its own disk.
    pub syncs: bool,
}

impl Default for DiskOptions {
    /// This program with the argument `disk-server`, without syncing.
    fn default() -> Self {
        let program = std::env::current_exe().map_or_else(|_| "snapctl".into(), PathBuf::into_os_string);
        Self { server: vec![program, "disk-server".into()], syncs: false }
    }
}

/// A disk, served by a process of its own as long as this handle lives. Its files go with it: a VM that is restored
/// has its disk from a snapshot.
pub struct Disk {
    socket: PathBuf,
    bytes: u64,
    source: Option<Arc<dyn BlockSource>>,
    /// The image below it, and how that was when the disk was made.
    image: Option<(PathBuf, Stamp)>,
    active: u64,
    /// What changed up to the last freeze and is in no snapshot that is stored. None: everything.
    uncommitted: Option<Vec<Range<u64>>>,
    /// Frozen, and not read to its end: the snapshot may have failed.
    untaken: Option<u64>,
    // In this order they end: the process, then those whom it asks, then its files.
    supervisor: Supervisor,
    _blocks: Option<Server>,
    folder: Folder,
}

/// A folder that is removed when it is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a disk's files stay behind");
        }
    }
}

/// Removes it, if it is there.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("folder", &self.folder)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A disk as it was at the moment of a freeze.
pub struct FrozenDisk {
    source: FrozenSource,
    changed: Option<Vec<Range<u64>>>,
}

impl FrozenDisk {
    /// All of it.
    #[must_use]
    pub fn source(&self) -> &dyn RegionSource {
        &self.source
    }

    /// What changed since the last snapshot that was [`Disk::committed`]; none if that is everything.
    #[must_use]
    pub fn changed(&self) -> Option<&[Range<u64>]> {
        self.changed.as_deref()
    }
}

impl fmt::Debug for FrozenDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenDisk").field("changed", &self.changed).finish_non_exhaustive()
    }
}

impl Disk {
    /// Makes a disk in this folder, which is emptied, and starts its process.
    ///
    /// # Errors
    /// If the image, the folder or the program can't be used.
    pub fn create(folder: &Path, origin: DiskOrigin, options: &DiskOptions) -> Result<Self, DiskError> {
        let socket = folder.join(NBD_SOCKET);
        for path in [&socket, &folder.join(BLOCK_SOCKET)] {
            if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                return Err(DiskError::SocketPath { path: path.clone(), max: SOCKET_PATH_BYTES_MAX });
            }
        }
        let Described { bytes, kind, source, image } = describe(origin)?;
        if bytes == 0 || bytes > DISK_BYTES_MAX {
            return Err(DiskError::Size { found: bytes, max: DISK_BYTES_MAX });
        }
        let failed = |source| DiskError::Folder { folder: folder.to_owned(), source };
        let kept = Folder(folder.to_owned());
        let listener =
            make(folder, &socket, &Description::new(bytes, kind, options.syncs)).map_err(failed)?;
        let blocks = source.clone().map(|source| Server::start(&folder.join(BLOCK_SOCKET), source));
        let blocks = blocks.transpose().map_err(failed)?;
        let mut command_line = options.server.clone();
        command_line.push(folder.into());
        let supervisor = Supervisor::start(Plan { command_line, listener, folder: folder.to_owned() })
            .map_err(|source| DiskError::Start { source })?;
        // What comes from a snapshot is in one already.
        let uncommitted = source.is_some().then(Vec::new);
        Ok(Self {
            socket,
            bytes,
            source,
            image,
            active: 1,
            uncommitted,
            untaken: None,
            supervisor,
            _blocks: blocks,
            folder: kept,
        })
    }

    /// The Unix socket at which its NBD export `disk0` is to be had.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its process, if one runs just now, and how often it was started again.
    #[must_use]
    pub fn process(&self) -> (Option<u32>, u64) {
        self.supervisor.process()
    }

    /// Looks whether the image below it is still as it was: what is read from it shows in the guest at once, and in
    /// its snapshots.
    ///
    /// # Errors
    /// [`DiskError::ImageChanged`], or if it is gone.
    pub fn check_image(&self) -> Result<(), DiskError> {
        let Some((path, stamp)) = &self.image else { return Ok(()) };
        match fs::metadata(path) {
            Ok(metadata) if Stamp::of(&metadata) == *stamp => Ok(()),
            Ok(_) => Err(DiskError::ImageChanged { path: path.clone() }),
            Err(source) => Err(DiskError::Image { path: path.clone(), source }),
        }
    }

    /// Has all chunks of a restored disk fetched that are not here yet, in their order. Until then it fetches
    /// only what is read, which leaves the machine to what else a restore has to do.
    pub fn prefetch(&self) {
        if self.source.is_some() {
            self.supervisor.prefetch();
        }
    }

    /// How it is doing.
    ///
    /// # Errors
    /// If its process does not answer.
    pub fn status(&self) -> Result<DiskStatus, DiskError> {
        let doing = "tell how it is";
        match self.supervisor.ask(&Request::Status, CONTROL_TIMEOUT) {
            Ok(Reply::Status(status)) => Ok(status),
            other => Err(unexpected(doing, other)),
        }
    }

    /// Fixes the disk's content of this moment, in constant time. What is written from now on goes
    /// elsewhere. Returns the frozen layer's number, for [`Disk::frozen`].
    ///
    /// # Errors
    /// [`DiskError::Busy`] if two layers are frozen already. Nothing has changed after an error, but that
    /// it may have been frozen where the process did not answer; the next freeze then finds that out.
    pub fn freeze(&mut self) -> Result<u64, DiskError> {
        let layer = self.active;
        match self.supervisor.ask(&Request::Freeze { layer }, FREEZE_TIMEOUT) {
            Ok(Reply::Frozen { active }) => {
                self.active = active;
                self.untaken = Some(layer);
                Ok(layer)
            }
            Ok(Reply::Busy) => Err(DiskError::Busy),
            other => Err(unexpected("freeze", other)),
        }
    }

    /// Opens what was just frozen, for reading. Call [`Disk::taken`] when that is done.
    ///
    /// # Errors
    /// If its files can't be read.
    pub fn frozen(&mut self, layer: u64) -> Result<FrozenDisk, DiskError> {
        match FrozenSource::open(&self.folder.0, layer, self.source.as_ref()) {
            Ok(source) => {
                self.uncommitted = self.uncommitted.take().map(|ranges| union(&ranges, &source.changed()));
                Ok(FrozenDisk { source, changed: self.uncommitted.clone() })
            }
            Err(source) => {
                // What was in the layer is not known any more: the next snapshot takes everything.
                self.uncommitted = None;
                Err(DiskError::Frozen { layer, source })
            }
        }
    }

    /// What was frozen with this layer is not read any more: it may be folded. What changed is remembered
    /// until it is [`Disk::committed`].
    pub fn taken(&mut self, layer: u64) {
        self.untaken = None;
        self.supervisor.fold(layer);
    }

    /// Before the next freeze: remembers what changed in a layer that was frozen for a snapshot that then
    /// failed, and lets it be folded.
    pub fn settle(&mut self) {
        if let Some(layer) = self.untaken {
            if let Err(error) = self.frozen(layer) {
                tracing::warn!(%error, "the next snapshot takes all of the disk");
            }
            self.taken(layer);
        }
    }

    /// The snapshot of the last freeze is stored.
    pub fn committed(&mut self) {
        self.uncommitted = Some(Vec::new());
    }
}

fn unexpected(doing: &'static str, result: io::Result<Reply>) -> DiskError {
    let source = match result {
        Err(error) => error,
        Ok(Reply::Refused { reason }) => io::Error::other(reason),
        Ok(reply) => io::Error::new(io::ErrorKind::InvalidData, format!("it answers {reply:?}")),
    };
    DiskError::Control { doing, source }
}

struct Described {
    bytes: u64,
    kind: BaseKind,
    source: Option<Arc<dyn BlockSource>>,
    image: Option<(PathBuf, Stamp)>,
}

fn describe(origin: DiskOrigin) -> Result<Described, DiskError> {
    match origin {
        DiskOrigin::Blocks(source) => {
            Ok(Described { bytes: source.bytes(), kind: BaseKind::Lazy, source: Some(source), image: None })
        }
        DiskOrigin::Image(path) => {
            let metadata = File::open(&path).and_then(|file| file.metadata()).and_then(|metadata| {
                if metadata.is_file() { Ok(metadata) } else { Err(io::Error::other("this is no plain file")) }
            });
            let (bytes, stamp) = match metadata {
                Ok(metadata) => (metadata.len(), Stamp::of(&metadata)),
                Err(source) => return Err(DiskError::Image { path, source }),
            };
            let path = fs::canonicalize(&path).unwrap_or(path);
            // Guests know disks of whole sectors only.
            let kind = BaseKind::Image { path: path.clone(), bytes };
            let bytes = bytes.next_multiple_of(512);
            Ok(Described { bytes, kind, source: None, image: Some((path, stamp)) })
        }
    }
}

fn make(folder: &Path, socket: &Path, description: &Description) -> io::Result<UnixListener> {
    remove_folder(folder)?;
    fs::create_dir_all(folder)?;
    // Whoever can reach the socket can write to the disk.
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Stack::create(folder, description.disk_bytes)?;
    if description.base == BaseKind::Lazy {
        Layer::create(folder, CACHE, cache_geometry(description.disk_bytes), true)?;
    }
    description.save(folder)?;
    UnixListener::bind(socket)
}
