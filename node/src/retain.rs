//! Which snapshots of plain files this node has kept by the cluster: those of lines whose server it is.
//!
//! The node that pushed is the server of its line. One that pushes, or rebases, what another node's line has brought
//! begins a line of its own that goes on from there, so that two that push at once are two lines and both are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use sustain_gossip::{Cluster, Retain};
use sustain_proto::{NodeId, ServiceName, Term, TermOrigin};
use sustain_store::{SnapshotInfo, Store, error_chain};

use crate::limits;

/// Has what this node's store retains of a service kept, as the newest snapshot in it says.
pub(crate) async fn retain_files(cluster: &Cluster, store: &Store, service: &ServiceName) {
    let Some(newest) = newest(store, service).await else { return };
    let (term, origin) = if newest.term.node == cluster.node_id() {
        (newest.term, newest.origin)
    } else {
        let lines: Vec<Term> = cluster.lines(service).await.into_iter().map(|line| line.term).collect();
        line_after(&newest, cluster.node_id(), &lines)
    };
    cluster.retain(retain(service.clone(), term, origin));
}

fn retain(service: ServiceName, term: Term, origin: Option<TermOrigin>) -> Retain {
    let (tolerance, warm, merged) = (limits::FILES_TOLERANCE, Vec::new(), BTreeSet::new());
    Retain { service, term, origin, tolerance, warm, merged }
}

/// The line in which this node makes another one's snapshot known: one that it has begun before and that goes on from
/// there, or a new one.
fn line_after(newest: &SnapshotInfo, me: NodeId, lines: &[Term]) -> (Term, Option<TermOrigin>) {
    let origin = Some(TermOrigin { parent: newest.term, seq: newest.seq });
    let begun = lines.iter().find(|term| term.node == me && **term > newest.term);
    let new = || Term { counter: newest.term.counter.saturating_add(1), node: me, nonce: rand::random() };
    (begun.copied().unwrap_or_else(new), origin)
}

async fn newest(store: &Store, service: &ServiceName) -> Option<SnapshotInfo> {
    let (store, service) = (store.clone(), service.clone());
    let listed = tokio::task::spawn_blocking(move || store.snapshots(Some(&service)));
    match listed.await.ok()? {
        Ok(mut list) => list.pop(),
        Err(error) => {
            tracing::warn!(error = %error_chain(&error), "can't list the store's snapshots");
            None
        }
    }
}

/// When a node starts: has what is in its store kept, as far as nobody else says that it is. Of services in the
/// configuration, the lines that this node was the server of; what becomes of others their next server decides.
pub(crate) async fn retain_at_start(cluster: Cluster, store: Store, sustained: Vec<(ServiceName, u32)>) {
    let listed = store.clone();
    let services = tokio::task::spawn_blocking(move || listed.services().unwrap_or_default()).await;
    let services = services.unwrap_or_default();
    let mut others = Vec::new();
    for service in &services {
        let Some(newest) = newest(&store, service).await else { continue };
        let planned = sustained.iter().find(|(name, _)| name == service);
        let tolerance = planned.map_or(limits::FILES_TOLERANCE, |(_, tolerance)| *tolerance);
        if newest.term.node == cluster.node_id() {
            let retain = retain(service.clone(), newest.term, newest.origin);
            cluster.retain(Retain { tolerance, ..retain });
        } else if planned.is_none() {
            others.push(service);
        }
    }
    // Whoever is the server of the others may have to be heard of first; and of several that find nobody one is to be
    // the first.
    tokio::time::sleep(limits::UNCOVERED_PATIENCE + rand_of(limits::UNCOVERED_PATIENCE)).await;
    for service in others {
        let Some(newest) = newest(&store, service).await else { continue };
        let lines = cluster.lines(service).await;
        if !lines.iter().any(|line| line.snapshots.contains(&newest.id)) {
            retain_files(&cluster, &store, service).await;
        }
    }
}

fn rand_of(longest: Duration) -> Duration {
    longest.mul_f64(rand::random::<f64>())
}
