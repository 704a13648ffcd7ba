//! Has the system write files to the disk while they are still being filled, so that little is left to wait for when
//! they are complete.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::limits;

/// What the thread is told, and what it has found.
#[derive(Debug, Default)]
struct Shared {
    files: Vec<File>,
    ended: bool,
    /// The first sync that failed. A later one may say that all is well.
    failed: Option<io::Error>,
}

/// A thread that syncs files over and over. Dropping it ends it.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl WriteBack {
    /// Adds a file. Where there is no thread to be had, all is left to [`end`](Self::end)'s caller.
    pub(crate) fn add(&mut self, file: File) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).files.push(file);
        if self.thread.is_none() {
            let shared = self.shared.clone();
            self.thread = thread::Builder::new().spawn(move || run(&shared.0, &shared.1)).ok();
        }
    }

    /// Ends it. What was written last is not synced yet.
    ///
    /// # Errors
    /// If a sync has failed: what it lost is lost.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let lock = || self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        lock().ended = true;
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // Its panic is a bug; it goes on as if it had happened here.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        lock().failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        // Nobody wants the files any more.
        let _ = self.end();
    }
}

fn run(shared: &Mutex<Shared>, ended: &Condvar) {
    loop {
        let guard = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |shared: &mut Shared| !shared.ended && shared.failed.is_none();
        let waited = ended.wait_timeout_while(guard, limits::WRITE_BACK_EVERY, goes_on);
        let (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if guard.ended || guard.failed.is_some() {
            return;
        }
        // One that can't be had twice is left to whoever syncs them in the end.
        let files: Vec<File> = guard.files.iter().filter_map(|file| file.try_clone().ok()).collect();
        drop(guard);
        if let Some(error) = files.iter().find_map(|file| file.sync_data().err()) {
            shared.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(error);
            ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syncing a socket fails each time.
    #[test]
    fn a_sync_that_failed_is_told_at_the_end() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut write_back = WriteBack::default();
        write_back.add(File::from(std::os::fd::OwnedFd::from(one)));
        let shared = write_back.shared.clone();
        let guard = shared.0.lock().unwrap();
        // Its thread is to find out by itself.
        let noted = shared
            .1
            .wait_timeout_while(guard, limits::WRITE_BACK_EVERY * 500, |shared| shared.failed.is_none());
        drop(noted);
        assert!(write_back.end().is_err());
    }

    #[test]
    fn files_are_left_as_they_are() {
        let file = tempfile::tempfile().unwrap();
        let mut write_back = WriteBack::default();
        write_back.add(file.try_clone().unwrap());
        file.set_len(5).unwrap();
        write_back.end().unwrap();
        write_back.end().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5);
    }
}
