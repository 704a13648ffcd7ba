//! File descriptors: as many as the system lets this process have, and what of them is left for clients.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sustain_proto::ServiceName;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::events::{EventLog, Happening};
use crate::limits::{
    CLIENT_DESCRIPTORS, CLIENTS_MAX, CLIENTS_WATCH, DESCRIPTORS_RESERVED, DESCRIPTORS_WANTED,
};

/// Raises the process's own limit as far as it may and as is wanted, and says what it is then.
pub(crate) fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // No limit is greater than any.
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let wanted = DESCRIPTORS_WANTED.min(hard);
    if soft >= wanted {
        return soft;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, soft, wanted, "can't raise the limit on open files");
            soft
        }
    }
}

/// Clients that each of so many services may have at a time.
pub(crate) fn clients_max(limit: u64, services: usize) -> usize {
    let left = limit.saturating_sub(DESCRIPTORS_RESERVED) / CLIENT_DESCRIPTORS;
    let each = usize::try_from(left).unwrap_or(usize::MAX) / services.max(1);
    each.clamp(1, CLIENTS_MAX)
}

/// Tells when a service's clients begin to wait for room, until cancelled.
pub(crate) async fn watch_room(
    service: ServiceName,
    (room, places): (usize, Arc<Semaphore>),
    events: Arc<EventLog>,
    cancel: CancellationToken,
) {
    let mut fullness = Fullness::default();
    while tokio::time::timeout(CLIENTS_WATCH, cancel.cancelled()).await.is_err() {
        if fullness.look(places.available_permits(), room) {
            let what = format!(
                "all room for clients ({room} at a time) is taken: further ones wait for others to end"
            );
            events.add(Happening::Problem { service: Some(service.clone()), what });
        }
    }
}

/// Whether it has been told that there is no room left.
#[derive(Debug, Default)]
struct Fullness {
    told: bool,
}

impl Fullness {
    /// Whether it is to be told now: once, and again only after a quarter of the room was free.
    fn look(&mut self, free: usize, room: usize) -> bool {
        if free == 0 {
            return !std::mem::replace(&mut self.told, true);
        }
        self.told &= free < room.div_ceil(4);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the usual limit of 1,024 files, 512 clients left none for the VM, the store and the other nodes.
    #[test]
    fn clients_leave_descriptors_for_everything_else() {
        assert_eq!(clients_max(1_024, 1), 384);
        assert_eq!(clients_max(1_024, 3), 128);
        assert_eq!(clients_max(DESCRIPTORS_WANTED, 2), CLIENTS_MAX);
        assert_eq!(clients_max(u64::MAX, 1), CLIENTS_MAX);
        // Serving one is better than serving none.
        assert_eq!(clients_max(100, 1), 1);
        assert_eq!(clients_max(1_024, 0), 384);
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let raised = raise();
        assert!(raised >= hard.min(DESCRIPTORS_WANTED));
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), raised);
    }

    #[test]
    fn a_lack_of_room_is_told_once_until_there_is_room_again() {
        let mut fullness = Fullness::default();
        let told: Vec<_> = [5, 0, 0, 1, 0, 2, 0].into_iter().map(|free| fullness.look(free, 8)).collect();
        assert_eq!(told, [false, true, false, false, false, false, true]);
    }
}
