//! A rebase beside a running VM: what takes long of it, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::{io, thread};

use sustain_proto::ServiceName;
use sustain_store::{PreparedRebase, RebaseError, RebaseOptions, Store};

use super::cancel::Cancel;

/// A rebase that is being prepared. Dropping it gives it up.
pub(super) struct Rebasing {
    cancelled: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<PreparedRebase, RebaseError>>>,
}

impl Rebasing {
    pub(super) fn start(store: Store, service: ServiceName, options: RebaseOptions) -> io::Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let cancel = Cancel(cancelled.clone());
        let prepare = move || store.prepare_rebase_with(&service, options, &cancel);
        let thread = thread::Builder::new().name("rebase".to_owned()).spawn(prepare)?;
        Ok(Self { cancelled, thread: Some(thread) })
    }

    /// What came of it, once it is done, and once only.
    pub(super) fn outcome(&mut self) -> Option<Result<PreparedRebase, RebaseError>> {
        let done = self.thread.take_if(|thread| thread.is_finished())?;
        // A panic of the thread is a bug; it goes on as if it had happened here.
        Some(done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Has it end soon, without waiting for that.
    pub(super) fn give_up(&self) {
        self.cancelled.store(true, Ordering::Release);
    }
}

impl Drop for Rebasing {
    /// Waits for its end: the store must not be held, nor another rebase be refused, by one that nobody wants.
    fn drop(&mut self) {
        self.give_up();
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                tracing::error!("the thread of a rebase panicked");
            }
        }
    }
}
