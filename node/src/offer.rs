//! Offers what a node holds to its neighbours, when it starts and when they are others.

use std::collections::BTreeMap;
use std::sync::Arc;

use sustain_gossip::Cluster;
use sustain_proto::{ServiceName, SnapshotId};
use sustain_store::{Store, error_chain};
use tokio::sync::Notify;

use crate::limits;

/// Offers the newest snapshot of each service to the neighbours: at the start, since what was pushed before the node
/// last ended may not have reached anybody, and whenever there are others. Those that have it say so.
pub(crate) async fn offer_again(
    cluster: Cluster,
    store: Store,
    tolerances: Vec<(ServiceName, u32)>,
    neighbours: Arc<Notify>,
) {
    loop {
        let listed = store.clone();
        let list = tokio::task::spawn_blocking(move || newest_and_held(&listed)).await;
        for (service, snapshot, held) in list.unwrap_or_default() {
            if let Some(held) = held {
                cluster.spread_held(service.clone(), held);
            }
            let planned = tolerances.iter().find(|(name, _)| *name == service);
            cluster.spread(snapshot, planned.map_or(limits::FILES_TOLERANCE, |(_, tolerance)| *tolerance));
        }
        neighbours.notified().await;
    }
}

/// The newest snapshot of each service, and what its last rebase has kept.
fn newest_and_held(store: &Store) -> Vec<(ServiceName, SnapshotId, Option<Vec<SnapshotId>>)> {
    match store.snapshots(None) {
        Ok(list) => {
            let newest: BTreeMap<_, _> = list.iter().map(|info| (&info.service, info.id)).collect();
            newest.into_iter().map(|(service, id)| (service.clone(), id, store.held(service).ok())).collect()
        }
        Err(error) => {
            tracing::warn!(error = %error_chain(&error), "can't list the store's snapshots");
            Vec::new()
        }
    }
}
