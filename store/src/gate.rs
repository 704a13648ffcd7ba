//! Gates: one push or rebase of a service at a time. They live in memory, so none outlives its process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::ServiceName;

/// The services that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    taken: Mutex<BTreeSet<ServiceName>>,
}

impl Gates {
    /// Takes the service's gate, if nobody has it.
    pub(crate) fn take(self: &Arc<Self>, service: &ServiceName) -> Option<Gate> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.insert(service.clone());
        drop(taken);
        free.then(|| Gate { gates: self.clone(), service: service.clone() })
    }
}

/// Holds a service's gate as long as it lives.
#[derive(Debug)]
pub(crate) struct Gate {
    gates: Arc<Gates>,
    service: ServiceName,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.gates.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.service);
    }
}
