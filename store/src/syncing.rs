//! Syncing a file on a thread of its own, while what comes after it is still being made: the disk and the cores then
//! work at the same time.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::disk::DiskFile;

/// How far a file's sync is.
#[derive(Debug)]
enum State {
    /// Whoever asks for it does it.
    NotBegun,
    Running(JoinHandle<io::Result<()>>),
    Done,
    Failed,
}

/// A file that is to be synced. Dropping it waits for what is running.
#[derive(Debug)]
pub(crate) struct Syncing {
    file: Arc<dyn DiskFile>,
    state: Mutex<State>,
}

impl Syncing {
    /// Of this file, once everything is written to it.
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, state: Mutex::new(State::NotBegun) }
    }

    /// Begins it, unless that was done or there is no thread to be had.
    pub(crate) fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::NotBegun) {
            let file = self.file.clone();
            if let Ok(thread) = thread::Builder::new().spawn(move || file.sync()) {
                *state = State::Running(thread);
            }
        }
    }

    /// Waits until it is done, or does it.
    ///
    /// # Errors
    /// If the sync failed. It is not tried again then, as the system may take what it lost for saved.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // What ends in between has not succeeded.
        let outcome = match std::mem::replace(&mut *state, State::Failed) {
            State::NotBegun => self.file.sync(),
            // Its panic is a bug; it goes on as if it had happened here.
            State::Running(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            State::Done => Ok(()),
            State::Failed => Err(io::Error::other("it failed before")),
        };
        if outcome.is_ok() {
            *state = State::Done;
        }
        outcome
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(thread) = std::mem::replace(state, State::Done) {
            // Nobody wants the file any more.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fails its syncs, and counts them.
    #[derive(Debug, Default)]
    struct Failing(AtomicUsize);

    impl DiskFile for Failing {
        fn number(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn bytes(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Ok(())
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn set_bytes(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn punch(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    /// A second sync would say that all is well, while what the first one lost never reaches the disk.
    #[test]
    fn a_sync_that_failed_is_told_each_time_and_not_tried_again() {
        for begun in [true, false] {
            let file = Arc::new(Failing::default());
            let syncing = Syncing::new(file.clone());
            if begun {
                syncing.begin();
                syncing.begin();
            }
            assert_eq!(syncing.wait().unwrap_err().kind(), io::ErrorKind::StorageFull);
            syncing.begin();
            assert!(syncing.wait().is_err());
            drop(syncing);
            assert_eq!(file.0.load(Ordering::Relaxed), 1, "begun: {begun}");
        }
    }
}
