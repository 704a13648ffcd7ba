//! How many losses snapshots survive, on its way to the store and to the node above.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sustain_proto::{ServiceName, SnapshotId};
use sustain_store::error_chain;
use tokio::sync::Notify;

use crate::member::Member;
use crate::transport::links::lock;

/// What a snapshot survives, and what it is to survive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    pub(super) level: Option<u32>,
    pub(super) tolerance: u32,
}

/// The newest level of each snapshot of which one is to be told.
#[derive(Debug, Default)]
pub(super) struct Levels {
    waiting: Mutex<BTreeMap<(ServiceName, SnapshotId), Level>>,
    news: Notify,
}

impl Levels {
    pub(super) fn put(&self, service: ServiceName, id: SnapshotId, level: Level) {
        lock(&self.waiting).insert((service, id), level);
        self.news.notify_one();
    }
}

/// Marks what is durable in the store, and tells the node above, until the cluster stops.
pub(super) async fn run(member: Arc<Member>) {
    loop {
        let next = lock(&member.keeping.levels.waiting).pop_first();
        let Some(((service, id), Level { level, tolerance })) = next else {
            member.keeping.levels.news.notified().await;
            continue;
        };
        if level >= Some(tolerance) {
            let store = member.store.clone();
            match member.tasks.blocking(move || store.mark_durable(id, tolerance)).await {
                Ok(Ok(())) => {}
                // It is durable all the same: other nodes have it.
                Ok(Err(error)) => {
                    tracing::warn!(snapshot = %id, error = error_chain(&error), "not marked as durable here");
                }
                Err(_) => return,
            }
        }
        member.handler.level(service, id, level);
    }
}
