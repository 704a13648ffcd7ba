//! The janitor: a thread that closes snapshots which nobody reads any more, so that their packs can go.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crate::limits;
use crate::readers::Readers;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Janitor {
    thread: Option<JoinHandle<()>>,
    /// Closed to end it.
    end: Option<SyncSender<()>>,
}

impl Janitor {
    /// Starts it.
    pub(crate) fn start(readers: Arc<Readers>) -> io::Result<Self> {
        let (end, ended) = sync_channel::<()>(1);
        let thread = Builder::new().name("mount-janitor".to_owned()).spawn(move || {
            while ended.recv_timeout(limits::JANITOR_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                readers.expire(Instant::now());
            }
        })?;
        Ok(Self { thread: Some(thread), end: Some(end) })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
