//! Takes connections, at most so many at once.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use super::budget::Budget;
use super::connection;
use super::patient::Patience;
use super::places::Places;
use crate::disk::volume::Volume;
use crate::limits::{NBD_CONNECTIONS_MAX, POLL_INTERVAL};

/// Serves for ever.
pub(crate) fn serve(listener: &UnixListener, volume: &Arc<Volume>) {
    let budget = Budget::of_all();
    let places = Arc::new(Places::new(NBD_CONNECTIONS_MAX));
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
        let Some(place) = places.take(&stream) else {
            tracing::warn!("the disk's server has no place for another connection");
            continue;
        };
        let (volume, budget, all, own) =
            (Arc::clone(volume), Arc::clone(&budget), Arc::clone(&places), Arc::clone(&place));
        let thread = std::thread::Builder::new().name("disk-client".into()).spawn(move || {
            match connection::run(stream, &volume, &budget, &own, Patience::default()) {
                Ok(()) => tracing::debug!("a client of the disk left"),
                Err(error) => tracing::info!(%error, "a client of the disk is gone"),
            }
            all.leave(&own);
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread for a client of the disk");
            places.leave(&place);
        }
    }
}
