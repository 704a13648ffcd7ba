//! The cluster's tasks: all of them end with it.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Starts tasks and ends them together.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    runtime: Handle,
}

/// Ends the tasks when it is dropped.
#[derive(Debug)]
pub(crate) struct StopOnDrop {
    _guard: DropGuard,
}

impl Tasks {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { tracker: TaskTracker::new(), token: CancellationToken::new(), runtime }
    }

    /// Starts a task that is dropped where it stands when the cluster stops. May be called outside the
    /// runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if !self.token.is_cancelled() {
            let ends = self.token.clone().run_until_cancelled_owned(task);
            drop(self.tracker.spawn_on(ends, &self.runtime));
        }
    }

    /// Runs work that blocks, on a thread for such work. It can't be cut short: whoever feeds it must stop.
    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking_on(work, &self.runtime)
    }

    /// For the owner of the cluster to hold.
    pub(crate) fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop { _guard: self.token.clone().drop_guard() }
    }

    /// Whether the cluster is stopping.
    pub(crate) fn stopping(&self) -> bool {
        self.token.is_cancelled()
    }

    /// How many tasks there are, blocking work included.
    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Runs until done, or until the cluster stops.
    pub(crate) async fn until_stopped<F: Future>(&self, work: F) -> Option<F::Output> {
        self.token.run_until_cancelled(work).await
    }

    /// Ends all tasks. False if some blocking work is not done after the timeout.
    pub(crate) async fn stop(&self, timeout: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(timeout, self.tracker.wait()).await.is_ok()
    }
}
