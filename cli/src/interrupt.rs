//! Ctrl-C: the first one asks the work to stop and leave nothing broken, the second one ends the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::signal::unix;

/// Whether the user wants the command to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for SIGINT and SIGTERM: those that come from its return on.
    pub(crate) fn watch() -> Self {
        let interrupt = Self::default();
        let flag = interrupt.0.clone();
        let (ready, is_ready) = mpsc::sync_channel(1);
        // Without the watcher Ctrl-C kills at once, which the store survives as well.
        let watcher = thread::Builder::new().name("signals".to_owned()).spawn(move || wait(&flag, ready));
        match watcher {
            // It ends either way: the watcher lets go of its end when it is ready and when it fails.
            Ok(_) => drop(is_ready.recv()),
            Err(error) => tracing::warn!(%error, "can't watch for Ctrl-C"),
        }
        interrupt
    }

    /// Whether a signal came.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the user insists; stores and nodes survive it, as they do kill -9"
)]
fn wait(flag: &AtomicBool, ready: mpsc::SyncSender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(mut signals) = Signals::watch() else { return };
        drop(ready);
        signals.next().await;
        flag.store(true, Ordering::Release);
        signals.next().await;
        std::process::exit(130);
    });
}

/// Both signals that ask to end.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// From here on none is missed.
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(unix::SignalKind::terminate())?,
            interrupt: unix::signal(unix::SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Resolves at the next SIGINT or SIGTERM.
pub(crate) async fn signal() -> std::io::Result<()> {
    Signals::watch()?.next().await;
    Ok(())
}
