//! Gates: who may change a service's snapshots. They live in memory, so none outlives its process.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sustain_proto::ServiceName;

/// What one of a service goes on at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// A push, from its beginning to its end; or the moment in which a rebase replaces snapshots. A push reads
    /// its parent at its beginning, and must find the generation as it was at its end.
    Change,
    /// A rebase, from its beginning to its end. Pushes go on beside all of it but that moment.
    Rebase,
}

/// The services that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    taken: Mutex<BTreeSet<(Work, ServiceName)>>,
    freed: Condvar,
}

impl Gates {
    fn taken(&self) -> MutexGuard<'_, BTreeSet<(Work, ServiceName)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the service's gate, if nobody has it.
    pub(crate) fn take(self: &Arc<Self>, work: Work, service: &ServiceName) -> Option<Gate> {
        self.wait(work, service, Duration::ZERO)
    }

    /// Takes the service's gate once nobody has it, if that comes in time.
    pub(crate) fn wait(
        self: &Arc<Self>,
        work: Work,
        service: &ServiceName,
        patience: Duration,
    ) -> Option<Gate> {
        let key = (work, service.clone());
        let waiting = self.freed.wait_timeout_while(self.taken(), patience, |taken| taken.contains(&key));
        let (mut taken, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        let free = taken.insert(key.clone());
        drop(taken);
        free.then(|| Gate { gates: self.clone(), key })
    }
}

/// Holds a service's gate as long as it lives.
#[derive(Debug)]
pub(crate) struct Gate {
    gates: Arc<Gates>,
    key: (Work, ServiceName),
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.gates.taken().remove(&self.key);
        self.gates.freed.notify_all();
    }
}
