//! Who is connected, and who has to leave when all places are taken and another client comes.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The places for clients.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: Mutex<Vec<Arc<Place>>>,
}

/// One client's.
#[derive(Debug)]
pub(crate) struct Place {
    /// Closed when it has to leave.
    stream: UnixStream,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Requests that are begun and not answered.
    in_flight: usize,
    /// Whether it ever made a request.
    is_used: bool,
    /// When the last one was answered, or when it came.
    since: Instant,
}

/// A request, from its first byte until it is answered.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Place>);

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, taken: Mutex::new(Vec::new()) }
    }

    /// A place for this client. If all are taken, it is the one of a client that has nothing to do: of those that
    /// never asked for anything the one that came first, else the one that is idle for longest. QEMU, should it
    /// be that one, comes again at once. None if all are busy, or the connection is gone.
    pub(crate) fn take(&self, stream: &UnixStream) -> Option<Arc<Place>> {
        let stream = stream.try_clone().ok()?;
        let state = State { in_flight: 0, is_used: false, since: Instant::now() };
        let place = Arc::new(Place { stream, state: Mutex::new(state) });
        let mut taken = lock(&self.taken);
        if taken.len() >= self.max {
            let states: Vec<State> = taken.iter().map(|place| *lock(&place.state)).collect();
            let leaves = taken.swap_remove(to_leave(&states)?);
            tracing::info!("an idle client of the disk has to make way for another");
            let _ = leaves.stream.shutdown(Shutdown::Both);
        }
        taken.push(Arc::clone(&place));
        Some(place)
    }

    /// The client is gone.
    pub(crate) fn leave(&self, place: &Arc<Place>) {
        lock(&self.taken).retain(|other| !Arc::ptr_eq(other, place));
    }
}

/// Which of them has to leave.
fn to_leave(states: &[State]) -> Option<usize> {
    let idle = states.iter().enumerate().filter(|(_, state)| state.in_flight == 0);
    idle.min_by_key(|(_, state)| (state.is_used, state.since)).map(|(position, _)| position)
}

impl Place {
    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        let mut state = lock(&self.state);
        state.in_flight += 1;
        state.is_used = true;
        InFlight(Arc::clone(self))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.in_flight -= 1;
        state.since = Instant::now();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_never_asked_leaves_first_then_who_is_idle_for_longest_and_nobody_who_is_busy() {
        let now = Instant::now();
        let state = |in_flight, is_used, ago| State {
            in_flight,
            is_used,
            since: now.checked_sub(Duration::from_secs(ago)).unwrap(),
        };
        let all = [state(1, true, 9), state(0, true, 8), state(0, false, 2), state(0, false, 3)];
        assert_eq!(to_leave(&all), Some(3));
        assert_eq!(to_leave(&all[..3]), Some(2));
        assert_eq!(to_leave(&all[..2]), Some(1));
        assert_eq!(to_leave(&all[..1]), None);
    }
}
