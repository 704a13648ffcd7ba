//! Processes that end while another one looks at them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use sustain_store::disk::{Disk, DiskEntry, DiskFile, DiskLock, DiskStamp, RealDisk};
use sustain_store::{Store, StoreOptions};

use crate::common::*;

/// A disk on which each process ends just when its file was opened to see whether it is locked: it removes its file,
/// and lets go of the lock.
#[derive(Debug)]
struct EndsWhenLookedAt;

impl Disk for EndsWhenLookedAt {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<DiskEntry>> {
        RealDisk.list(folder)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, write)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_folder(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_folder(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<DiskStamp> {
        RealDisk.stamp(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let lock = RealDisk.lock(path)?;
        if path.file_name().is_some_and(|name| name == "ending") {
            RealDisk.remove(path)?;
        }
        Ok(lock)
    }

    fn lock_holder(&self, path: &Path) -> Option<u32> {
        RealDisk.lock_holder(path)
    }
}

/// It was taken for one that had been killed, and that there was no file of it to remove ended the command with an
/// error.
#[test]
fn who_ends_while_another_opens_the_store_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("ram", noise(1, 100_000))]);
    let id = push(&store, "mail", &content).snapshot;
    drop(store);
    std::fs::write(dir.path().join("processes/ending"), [0; 64]).unwrap();
    let options = StoreOptions { disk: Arc::new(EndsWhenLookedAt), ..StoreOptions::default() };
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!(restore(&store, id), content);
    verify_good(&store);
}
