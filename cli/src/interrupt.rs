//! Ctrl-C: the first one asks the work to stop and leave nothing broken, the second one ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Whether the user wants the command to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for SIGINT and SIGTERM from now on.
    pub(crate) fn watch() -> Self {
        let interrupt = Self::default();
        let flag = interrupt.0.clone();
        // Without the watcher Ctrl-C kills at once, which the store survives as well.
        let watcher = thread::Builder::new().name("signals".to_owned()).spawn(move || wait(&flag));
        if let Err(error) = watcher {
            tracing::warn!(%error, "can't watch for Ctrl-C");
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
fn wait(flag: &AtomicBool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        if signal().await.is_ok() {
            flag.store(true, Ordering::Release);
        }
        if signal().await.is_ok() {
            std::process::exit(130);
        }
    });
}

/// Resolves at the next SIGINT or SIGTERM.
pub(crate) async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
