//! What a node says in elections of a service that it does not run, and whose snapshots it may hold all the same.

use sustain_proto::wire::{Ballot, SnapshotSummary};
use sustain_proto::{ServiceName, limits};
use sustain_store::{ReadError, SnapshotInfo, Store};

/// The ballot of a node that never takes over: what it holds counts, since the newest durable snapshot may be here
/// alone, and that it answers does, for a majority. None if nothing is held: then the service was perhaps forgotten in
/// its configuration, and a refusal tells. Reads the store.
///
/// # Errors
/// If the store can't be read.
pub(crate) fn ballot(store: &Store, service: &ServiceName) -> Result<Option<Ballot>, ReadError> {
    let known: Vec<SnapshotSummary> =
        store.snapshots(Some(service))?.iter().map(SnapshotInfo::summary).collect();
    let first = known.len().saturating_sub(limits::CONTROL_SNAPSHOTS_MAX);
    Ok((!known.is_empty()).then(|| Ballot {
        hears: None,
        term_known: known.iter().map(|summary| summary.term).max(),
        priority: 0,
        eligible: false,
        able: false,
        failed: Vec::new(),
        snapshots: known[first..].to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use sustain_proto::{NodeId, RegionName};
    use sustain_store::{KeySource, PushLineage, PushRequest, StoreOptions};

    use super::*;

    struct Zeros;

    impl sustain_store::RegionSource for Zeros {
        fn bytes(&self) -> u64 {
            65_536
        }

        fn read_at(&self, _offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            buf.fill(1);
            Ok(())
        }
    }

    /// A joined node without the service in its configuration refused to answer: a cold start waited a minute for a
    /// majority, and knew nothing of what that node held.
    #[test]
    fn who_only_holds_answers_with_what_it_holds_and_never_stands() {
        let folder = tempfile::tempdir().unwrap();
        let options =
            StoreOptions { key: KeySource::Given([7; 32]), create: true, ..StoreOptions::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        let (service, node) = ("mail".parse().unwrap(), NodeId::from_bytes([5; 32]));
        assert_eq!(ballot(&store, &service).unwrap(), None);
        let lineage = PushLineage::ContinueNewest { node, nonce: 1 };
        let mut push =
            store.begin_push(PushRequest { service: service.clone(), lineage, time_ms: 0 }).unwrap();
        push.ingest(&RegionName::new("ram").unwrap(), &Zeros).unwrap();
        let pushed = push.commit().unwrap();
        let held = ballot(&store, &service).unwrap().unwrap();
        assert_eq!(held.snapshots.iter().map(|it| it.id).collect::<Vec<_>>(), [pushed.snapshot]);
        assert_eq!(held.term_known.map(|term| term.node), Some(node));
        assert!(!held.able && !held.eligible && held.hears.is_none());
    }
}
