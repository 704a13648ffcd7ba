//! Takes connections, at most so many at once.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::budget::Budget;
use super::connection;
use crate::disk::volume::Volume;
use crate::limits::{NBD_CONNECTIONS_MAX, NBD_MEMORY_BYTES_MAX, POLL_INTERVAL};

/// Serves for ever.
pub(crate) fn serve(listener: &UnixListener, volume: &Arc<Volume>) {
    let budget = Budget::new(NBD_MEMORY_BYTES_MAX);
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "the disk's server can't take a connection");
                // No descriptor is left, say: not a reason to spin.
                std::thread::sleep(POLL_INTERVAL);
                continue;
            }
        };
        if open.fetch_add(1, Ordering::SeqCst) >= NBD_CONNECTIONS_MAX {
            tracing::warn!("the disk's server has no place for another connection");
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (volume, budget, count) = (Arc::clone(volume), Arc::clone(&budget), Arc::clone(&open));
        let thread = std::thread::Builder::new().name("disk-client".into()).spawn(move || {
            match connection::run(stream, &volume, &budget) {
                Ok(()) => tracing::debug!("a client of the disk left"),
                Err(error) => tracing::info!(%error, "a client of the disk is gone"),
            }
            count.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread for a client of the disk");
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
