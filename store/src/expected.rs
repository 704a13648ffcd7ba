//! What a caller counts on: snapshots that are to stay though a newer generation is here, and packs that were received
//! and are to stay though no snapshot lists them yet. It lives in memory, so none of it outlives its process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sustain_proto::{PackId, ServiceName, SnapshotId};

use crate::store::Store;

#[derive(Debug, Default)]
struct OfService {
    snapshots: BTreeSet<SnapshotId>,
    packs: BTreeSet<PackId>,
}

/// What is counted on, of each service.
#[derive(Debug, Default)]
pub(crate) struct Expected(Mutex<BTreeMap<ServiceName, OfService>>);

impl Expected {
    fn services(&self) -> MutexGuard<'_, BTreeMap<ServiceName, OfService>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshots(&self) -> BTreeSet<SnapshotId> {
        self.services().values().flat_map(|of| &of.snapshots).copied().collect()
    }

    pub(crate) fn packs(&self) -> BTreeSet<PackId> {
        self.services().values().flat_map(|of| &of.packs).copied().collect()
    }
}

impl Store {
    /// Counts on these snapshots of a service, and on these packs, instead of those that were given before: retiring
    /// leaves the snapshots, and received packs are not dropped for being too many.
    pub fn expect(&self, service: &ServiceName, snapshots: BTreeSet<SnapshotId>, packs: BTreeSet<PackId>) {
        let mut services = self.shared.expected.services();
        if snapshots.is_empty() && packs.is_empty() {
            services.remove(service);
        } else {
            services.insert(service.clone(), OfService { snapshots, packs });
        }
    }
}
