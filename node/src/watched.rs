//! A region's file that is pushed under the eyes of a user: it tells how far reading it is, and ends where he wants.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use sustain_store::{FileSource, Progress, RegionSource};

/// A file, and who is told.
pub(crate) struct Watched<'a> {
    file: &'a FileSource,
    progress: &'a dyn Progress,
    read: AtomicU64,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(file: &'a FileSource, progress: &'a dyn Progress) -> Self {
        Self { file, progress, read: AtomicU64::new(0) }
    }

    /// All is done, also what had not to be read.
    pub(crate) fn finish(&self) {
        let read = self.read.load(Ordering::Relaxed);
        self.progress.advance(self.file.bytes().saturating_sub(read));
    }
}

impl RegionSource for Watched<'_> {
    fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.progress.cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        self.file.read_at(offset, buf)?;
        let bytes = buf.len() as u64;
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.progress.advance(bytes);
        Ok(())
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        self.file.data_ranges()
    }
}

#[cfg(test)]
mod tests {
    use sustain_proto::NodeId;
    use sustain_store::{Store, StoreOptions};

    use super::*;
    use crate::operations::{PushFiles, RegionFile, push};

    /// Counts, and wants an end after so many bytes.
    struct Stop {
        after: u64,
        done: AtomicU64,
    }

    impl Progress for Stop {
        fn total(&self, _bytes: u64) {}

        fn advance(&self, bytes: u64) {
            self.done.fetch_add(bytes, Ordering::Relaxed);
        }

        fn cancelled(&self) -> bool {
            self.done.load(Ordering::Relaxed) >= self.after
        }
    }

    /// Only between two regions was it looked whether the user wanted an end, and told how far it was.
    #[test]
    fn a_push_tells_how_far_it_is_and_ends_within_a_region() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        std::fs::write(&path, vec![7; 16 << 20]).unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        let regions = [RegionFile { name: "ram".parse().unwrap(), path, changed: None }];
        let files = PushFiles { service: &"s".parse().unwrap(), regions: &regions, since: None };
        let node = NodeId::from_bytes([0; 32]);
        let stop = Stop { after: 1 << 20, done: AtomicU64::new(0) };
        assert_eq!(push(&store, &files, node, &stop).unwrap_err().exit_code, 130);
        assert!(stop.done.into_inner() < 8 << 20, "it went on");
        let all = Stop { after: u64::MAX, done: AtomicU64::new(0) };
        push(&store, &files, node, &all).unwrap();
        assert_eq!(all.done.into_inner(), 16 << 20);
    }
}
