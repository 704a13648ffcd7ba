//! Reading packs: all their bytes or, with their key, the directory, indexes and blocks.

use std::io;
use std::path::{Path, PathBuf};

use sustain_proto::limits::PACK_BYTES_MAX;
use sustain_proto::{IndexRoot, PackId};

use crate::block::Decoder;
use crate::directory::{Block, PackDirectory};
use crate::disk::{Disk, DiskFile};
use crate::ingest::no_memory;
use crate::keys::Keys;
use crate::layout::Layout;
use crate::pack_ends::{HEADER_BYTES, TRAILER_BYTES, Trailer, check_header};
use crate::{Fault, limits};

/// An open pack.
#[derive(Debug)]
pub(crate) struct PackFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl PackFile {
    /// Opens a pack of the store, or what is left of one that was set aside: each block that is read is checked.
    pub(crate) fn open(disk: &dyn Disk, layout: &Layout, id: &PackId) -> Result<Self, Fault> {
        let path = layout.pack(id);
        // Once more in its own place: it may have been received again in between.
        for path in [path.clone(), layout.aside_pack(id)] {
            match disk.open(&path, false) {
                Ok(file) => return Ok(Self { path, file }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Fault::reading(&path, error)),
            }
        }
        let file = disk.open(&path, false).map_err(|error| Fault::reading(&path, error))?;
        Ok(Self { path, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> Result<u64, Fault> {
        self.file.bytes().map_err(|error| Fault::reading(&self.path, error))
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.file.read_at(offset, buf).map_err(|error| Fault::reading(&self.path, error))
    }

    /// Reads all of it and checks that it is the pack with this id. `scratch` is for the bytes; `done` is told of
    /// each part, and may stop it.
    pub(crate) fn check_hash<E: From<Fault>>(
        &self,
        id: PackId,
        scratch: &mut Vec<u8>,
        mut done: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = self.bytes()?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < bytes {
            let part = (bytes - at).min(limits::PACK_BUFFER_BYTES as u64);
            scratch.resize(part as usize, 0);
            self.read_at(at, scratch)?;
            hasher.update(scratch);
            at += part;
            done(part)?;
        }
        if PackId::from_bytes(*hasher.finalize().as_bytes()) == id {
            return Ok(());
        }
        Err(Fault::damaged(&self.path, "its hash is not its name").into())
    }

    /// Reads, opens and checks the directory.
    pub(crate) fn directory(&self, keys: &Keys) -> Result<PackDirectory, Fault> {
        read_directory(&self.path, self.file.as_ref(), keys)
    }

    /// Reads the stored bytes of a block and opens them. They are then as its encoding says.
    pub(crate) fn open_block(
        &self,
        directory: &PackDirectory,
        block: u32,
        stored: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Block { offset, stored_bytes, .. } = directory.blocks()[block as usize];
        stored.resize(stored_bytes as usize, 0);
        self.read_at(u64::from(offset), stored)?;
        let opened = directory.open_block(block, stored);
        opened.map_err(|reason| Fault::damaged(&self.path, format!("a block can't be opened: {reason}")))
    }

    /// Reads an index and checks that it is the one with this root.
    pub(crate) fn index(
        &self,
        directory: &PackDirectory,
        block: u32,
        root: &IndexRoot,
    ) -> Result<Vec<u8>, Fault> {
        let damaged = |reason| Fault::damaged(&self.path, reason);
        let Block { plain_bytes, encoding, .. } = directory.blocks()[block as usize];
        let (mut stored, mut plain) = (Vec::new(), Vec::new());
        self.open_block(directory, block, &mut stored)?;
        let mut decoder = Decoder::new().map_err(no_memory)?;
        let decoded = decoder.decode(encoding, &stored, &[], plain_bytes as usize, &mut plain);
        decoded.map_err(damaged)?;
        if IndexRoot::of(&plain) == *root {
            Ok(plain)
        } else {
            Err(damaged("an index is not what its root says"))
        }
    }
}

/// Reads, opens and checks the directory of a pack that may not have its name yet.
pub(crate) fn read_directory(path: &Path, file: &dyn DiskFile, keys: &Keys) -> Result<PackDirectory, Fault> {
    let trailer = read_ends(path, file)?;
    let key = keys.find(trailer.key)?;
    let mut sealed = vec![0; trailer.directory_bytes];
    file.read_at(trailer.offset, &mut sealed).map_err(|error| Fault::reading(path, error))?;
    PackDirectory::open(key, &trailer, sealed).map_err(|reason| Fault::damaged(path, reason))
}

/// Checks what can be checked of a pack without its key.
pub(crate) fn read_ends(path: &Path, file: &dyn DiskFile) -> Result<Trailer, Fault> {
    let reading = |error| Fault::reading(path, error);
    let damaged = |reason: String| Fault::damaged(path, reason);
    let bytes = file.bytes().map_err(reading)?;
    if bytes < (HEADER_BYTES + TRAILER_BYTES) as u64 || bytes > PACK_BYTES_MAX {
        return Err(damaged(format!("a pack can't have {bytes} bytes")));
    }
    let mut header = [0; HEADER_BYTES];
    file.read_at(0, &mut header).map_err(reading)?;
    check_header(&header).map_err(damaged)?;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_at(bytes - TRAILER_BYTES as u64, &mut trailer).map_err(reading)?;
    Trailer::decode(&trailer, bytes).map_err(damaged)
}
