//! Answering the kernel: the file system as FUSE asks for it. Everything else than looking is refused by the kernel
//! itself, because the mount is read-only.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    Request,
};
use sustain_proto::SnapshotId;
use sustain_store::{ErrorKind, ReadError, error_chain};

use super::handles::{Handle, Handles};
use super::inodes::{InodeFault, Inodes};
use super::node::{Kind, Node, Shown};
use super::tree;
use crate::limits;
use crate::readers::{OpenFault, Readers};
use crate::view::{ChunkFault, Chunks, RegionView};

/// Whose the files are, and who may read them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether all users may read.
    pub(crate) open_to_all: bool,
}

/// A store as a file system.
#[derive(Debug)]
pub(crate) struct StoreFiles {
    readers: Arc<Readers>,
    chunks: Arc<Chunks>,
    owner: Owner,
    inodes: Mutex<Inodes>,
    handles: Handles,
    /// Damaged chunks that were told of.
    told: Mutex<HashSet<(SnapshotId, String)>>,
}

impl StoreFiles {
    pub(crate) fn new(readers: Arc<Readers>, chunks: Arc<Chunks>, owner: Owner) -> Self {
        Self {
            readers,
            chunks,
            owner,
            inodes: Mutex::default(),
            handles: Handles::default(),
            told: Mutex::default(),
        }
    }

    fn node(&self, number: INodeNo) -> Result<Node, Errno> {
        let inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        inodes.get(number.0).ok_or(Errno::ESTALE)
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let parent = self.node(parent)?;
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let found =
            tree::lookup(self.readers.store(), &parent, name).map_err(|e| self.refusal(&parent, &e))?;
        let node = found.ok_or(Errno::ENOENT)?;
        let told = self.inodes.lock().unwrap_or_else(PoisonError::into_inner).tell(node);
        let (number, node) = told.map_err(|fault| match fault {
            InodeFault::TooMany => Errno::ENFILE,
            InodeFault::Collision => Errno::EIO,
        })?;
        self.attributes(&node).inspect_err(|_| {
            self.inodes.lock().unwrap_or_else(PoisonError::into_inner).forget(number, 1);
        })
    }

    fn attributes(&self, node: &Node) -> Result<FileAttr, Errno> {
        let store = self.readers.store();
        let refusal = |error: ReadError| self.refusal(node, &error);
        let changed = tree::changed(store, node).map_err(refusal)?;
        let (size, blocks) = match node {
            Node::Region(shown, number) => {
                let bytes = node.region().map_or(0, |region| region.bytes);
                (bytes, self.data_bytes(shown, *number).unwrap_or(bytes).div_ceil(512))
            }
            Node::Manifest(_, text) => (text.len() as u64, (text.len() as u64).div_ceil(512)),
            Node::Latest(_) | Node::Alias(..) => {
                (tree::target(store, node).map_err(refusal)?.map_or(0, |target| target.len() as u64), 0)
            }
            Node::Root | Node::Service(_) | Node::Snapshot(_) => (0, 0),
        };
        let (kind, own, all) = match node.kind() {
            Kind::Folder => (FileType::Directory, 0o500, 0o555),
            Kind::File => (FileType::RegularFile, 0o400, 0o444),
            Kind::Link => (FileType::Symlink, 0o777, 0o777),
        };
        Ok(FileAttr {
            ino: INodeNo(node.number()),
            size,
            blocks,
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind,
            perm: if self.owner.open_to_all { all } else { own },
            // One says of a folder that its subfolders are not counted.
            nlink: 1,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: sustain_proto::limits::CHUNK_BYTES as u32,
            flags: 0,
        })
    }

    /// Bytes of a region that are not zero; none if the snapshot can't be opened, which is told.
    fn data_bytes(&self, shown: &Arc<Shown>, number: usize) -> Option<u64> {
        if let Some(bytes) = shown.data_bytes.get() {
            return bytes.get(number).copied();
        }
        let reader = self.readers.get(shown.id, Instant::now());
        let reader = reader.map_err(|fault| self.open_refusal(shown.id, &fault)).ok()?;
        let regions = &shown.manifest.regions;
        let view = |name| RegionView::new(reader.clone(), self.chunks.clone(), name);
        let bytes = regions.iter().map(|region| view(&region.name).map_or(0, |view| view.data_bytes()));
        shown.data_bytes.get_or_init(|| bytes.collect()).get(number).copied()
    }

    fn open_file(&self, number: INodeNo) -> Result<u64, Errno> {
        let node = self.node(number)?;
        let handle = match &node {
            Node::Manifest(_, text) => Handle::Text(text.clone()),
            Node::Region(shown, _) => {
                let reader = self.readers.get(shown.id, Instant::now());
                let reader = reader.map_err(|fault| self.open_refusal(shown.id, &fault))?;
                let region = &node.region().ok_or(Errno::EIO)?.name;
                let view = RegionView::new(reader, self.chunks.clone(), region).ok_or(Errno::EIO)?;
                Handle::Region(view, AtomicU64::new(0))
            }
            _ => return Err(Errno::EISDIR),
        };
        self.handles.add(handle).ok_or(Errno::ENFILE)
    }

    fn open_folder(&self, number: INodeNo) -> Result<u64, Errno> {
        let node = self.node(number)?;
        let entries =
            tree::entries(self.readers.store(), &node).map_err(|error| self.refusal(&node, &error))?;
        self.handles.add(Handle::Folder(entries)).ok_or(Errno::ENFILE)
    }

    /// The answer to what the store can't do, and a line in the log that says why.
    fn refusal(&self, node: &Node, error: &ReadError) -> Errno {
        if error.kind() == ErrorKind::NotFound {
            return Errno::ENOENT;
        }
        tracing::error!(path = node.path(), error = error_chain(error), "can't be shown");
        Errno::EIO
    }

    fn open_refusal(&self, id: SnapshotId, fault: &OpenFault) -> Errno {
        match fault {
            OpenFault::Read(error) if error.kind() == ErrorKind::NotFound => return Errno::ENOENT,
            OpenFault::TooMany => {
                tracing::warn!(snapshot = %id, "{fault}");
                return Errno::ENFILE;
            }
            OpenFault::Read(_) => {}
        }
        let error = error_chain(fault);
        if self.is_news(id, &error) {
            tracing::error!(snapshot = %id, error, "the snapshot can't be opened");
        }
        Errno::EIO
    }

    fn read_refusal(&self, handle: &Handle, fault: &ChunkFault) -> Errno {
        if let Handle::Region(view, _) = handle {
            let (id, error) = (view.reader().snapshot(), error_chain(fault));
            if self.is_news(id, &error) {
                tracing::error!(snapshot = %id, error, "damaged: whoever reads it gets an error");
            }
        }
        Errno::EIO
    }

    /// Whether this was not told yet. The kernel asks for the same again and again.
    fn is_news(&self, id: SnapshotId, error: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= limits::DAMAGES_MAX {
            told.clear();
        }
        told.insert((id, error.to_owned()))
    }
}

impl Filesystem for StoreFiles {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&limits::ENTRY_LIFE, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner).forget(number.0, times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(number).and_then(|node| self.attributes(&node)) {
            Ok(attributes) => reply.attr(&limits::ENTRY_LIFE, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let target = self.node(number).and_then(|node| {
            let target = tree::target(self.readers.store(), &node);
            target.map_err(|error| self.refusal(&node, &error))?.ok_or(Errno::ENOENT)
        });
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_file(number) {
            // A snapshot never changes, so what the kernel has of it stays right.
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(handle) = self.handles.get(handle.0) else { return reply.error(Errno::EBADF) };
        // All or an error: the kernel takes what is missing at the end for zeros.
        match handle.read(offset, bytes as usize) {
            Ok(plain) => reply.data(&plain),
            Err(fault) => reply.error(self.read_refusal(&handle, &fault)),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.remove(handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_folder(number) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let handle = self.handles.get(handle.0);
        let Some(Handle::Folder(entries)) = handle.as_deref() else { return reply.error(Errno::EBADF) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (number, entry) in entries.iter().enumerate().skip(from) {
            let kind = match entry.kind {
                Kind::Folder => FileType::Directory,
                Kind::Link => FileType::Symlink,
                Kind::File => FileType::RegularFile,
            };
            if reply.add(INodeNo(entry.number), number as u64 + 1, kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.handles.remove(handle.0);
        reply.ok();
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let handle = self.handles.get(handle.0);
        let Some(Handle::Region(view, _)) = handle.as_deref() else { return reply.error(Errno::EINVAL) };
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let found = match whence {
            SEEK_DATA => view.next_data(from),
            SEEK_HOLE => view.next_hole(from),
            _ => return reply.error(Errno::EINVAL),
        };
        match found.and_then(|offset| i64::try_from(offset).ok()) {
            Some(offset) => reply.offset(offset),
            None => reply.error(Errno::ENXIO),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // A view has no size of its own.
        reply.statfs(0, 0, 0, 0, 0, sustain_proto::limits::CHUNK_BYTES as u32, 255, 512);
    }
}

/// Linux's numbers for where a seek looks; the C library's headers have them, and no crate that is used here does.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
