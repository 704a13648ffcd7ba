//! What the last push of a service has read and written, kept for the next one, which mostly follows soon and changes
//! little: its cost is then that of the changes, and not that of the generation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sustain_proto::{ServiceName, SnapshotId};

use crate::catalogue::Catalogue;
use crate::limits;
use crate::push::Parent;
use crate::state::State;

/// A generation as it was when a snapshot had been pushed.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) snapshot: SnapshotId,
    pub(crate) parent: Parent,
    /// Everything that the generation had stored.
    pub(crate) catalogue: Catalogue,
}

/// The last one of each service that was pushed lately.
#[derive(Debug, Default)]
pub(crate) struct Recents {
    services: Mutex<BTreeMap<ServiceName, Recent>>,
}

impl Recents {
    fn services(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Recent>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was kept for this parent, if all its packs are here still.
    pub(crate) fn take(&self, service: &ServiceName, snapshot: SnapshotId, state: &State) -> Option<Recent> {
        let recent = self.services().remove(service)?;
        let here = recent.catalogue.packs().iter().all(|(pack, _)| state.packs.contains_key(&pack.id));
        (recent.snapshot == snapshot && here).then_some(recent)
    }

    /// Keeps this for the next push, in place of another service's if there are too many.
    pub(crate) fn put(&self, service: ServiceName, recent: Recent) {
        let mut services = self.services();
        if services.len() >= limits::RECENT_SERVICES_MAX && !services.contains_key(&service) {
            services.pop_first();
        }
        services.insert(service, recent);
    }
}
