//! The snapshots that are open: each once, not too many, and none for long that nobody uses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sustain_proto::SnapshotId;
use sustain_store::{ReadError, SnapshotReader, Store};

use crate::limits;

#[derive(Debug)]
struct Open {
    reader: Arc<SnapshotReader>,
    used: Instant,
}

impl Open {
    /// Whether nobody but the table has it.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.reader) == 1
    }
}

/// Why a snapshot can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenFault {
    /// The store says no.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Files of too many others are open.
    #[error("files of {} snapshots are open, which is the most at once", limits::OPEN_SNAPSHOTS_MAX)]
    TooMany,
}

/// Open snapshots by id. What is open pins its packs, so it stays readable through rebases.
#[derive(Debug)]
pub(crate) struct Readers {
    store: Store,
    open: Mutex<BTreeMap<SnapshotId, Open>>,
}

impl Readers {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, open: Mutex::default() }
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader of a snapshot; of the one that has its contents now, if a rebase has renamed it.
    pub(crate) fn get(&self, id: SnapshotId, now: Instant) -> Result<Arc<SnapshotReader>, OpenFault> {
        if let Some(reader) = self.known(id, now) {
            return Ok(reader);
        }
        // Opening reads the index, which takes a while for a large one: others are not held up.
        let (mut current, mut tries) = (id, 1);
        let reader = loop {
            match self.store.open_snapshot(current) {
                // A rebase has renamed it, maybe once more since that was looked up.
                Err(ReadError::NotFound { .. }) if tries < limits::CHOICES_MAX => {
                    current = self.store.resolve(&id.to_string())?;
                    if let Some(reader) = self.known(current, now) {
                        return Ok(reader);
                    }
                    tries += 1;
                }
                other => break other?,
            }
        };
        let reader = Arc::new(reader);
        let mut table = self.table();
        // Another thread may have been faster.
        let open = table.entry(reader.snapshot()).or_insert(Open { reader, used: now });
        open.used = now;
        let reader = open.reader.clone();
        close_idle(&mut table, limits::IDLE_SNAPSHOTS_MAX);
        if table.len() > limits::OPEN_SNAPSHOTS_MAX {
            let id = reader.snapshot();
            drop(reader);
            if table.get(&id).is_some_and(Open::is_idle) {
                table.remove(&id);
            }
            return Err(OpenFault::TooMany);
        }
        Ok(reader)
    }

    fn known(&self, id: SnapshotId, now: Instant) -> Option<Arc<SnapshotReader>> {
        let mut table = self.table();
        let open = table.get_mut(&id)?;
        open.used = now;
        Some(open.reader.clone())
    }

    /// Closes what nobody has used for a while.
    pub(crate) fn expire(&self, now: Instant) {
        self.table().retain(|_, open| {
            !open.is_idle() || now.saturating_duration_since(open.used) < limits::IDLE_SNAPSHOT
        });
    }

    /// How many are open.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }
}

/// Closes those that were used longest ago, until at most so many are left that nobody uses.
fn close_idle(table: &mut BTreeMap<SnapshotId, Open>, idle_max: usize) {
    let mut idle: Vec<(Instant, SnapshotId)> =
        table.iter().filter(|(_, open)| open.is_idle()).map(|(id, open)| (open.used, *id)).collect();
    idle.sort_unstable();
    for (_, id) in idle.iter().take(idle.len().saturating_sub(idle_max)) {
        table.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sustain_proto::{NodeId, ServiceName};
    use sustain_store::{PushLineage, PushRequest, StoreOptions};

    #[test]
    fn few_stay_open_that_nobody_uses_and_those_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        let push = |time_ms| {
            let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([1; 32]), nonce: 1 };
            let request = PushRequest { service: ServiceName::new("s").unwrap(), lineage, time_ms };
            store.begin_push(request).unwrap().commit().unwrap().snapshot
        };
        let ids: Vec<SnapshotId> = (0..limits::IDLE_SNAPSHOTS_MAX as u64 + 5).map(push).collect();
        let readers = Readers::new(store);
        let now = Instant::now();
        let held = readers.get(ids[0], now).unwrap();
        for id in &ids[1..] {
            readers.get(*id, now).unwrap();
        }
        // The one that was asked for last is in use until it is handed out.
        assert_eq!(readers.count(), 1 + limits::IDLE_SNAPSHOTS_MAX + 1);
        readers.expire(now + limits::IDLE_SNAPSHOT / 2);
        assert_eq!(readers.count(), 1 + limits::IDLE_SNAPSHOTS_MAX + 1);
        readers.expire(now + limits::IDLE_SNAPSHOT);
        assert_eq!(readers.count(), 1, "one is held");
        drop(held);
        readers.expire(now + limits::IDLE_SNAPSHOT);
        assert_eq!(readers.count(), 0);
    }
}
