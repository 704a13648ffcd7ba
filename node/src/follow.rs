//! The follower's half of a rebase (P10): this node arrives at the generation that its server has begun.

use sustain_proto::ServiceName;
use sustain_store::{ErrorKind, Store, error_chain};

/// Has older generations of a service go, as far as the newest base that is here allows. To be called when a snapshot
/// has come, and when one has become durable: either may be what an older one has waited for.
pub(crate) fn follow_rebase(store: &Store, service: &ServiceName) {
    let mut bases = match store.snapshots(Some(service)) {
        Ok(list) => list.into_iter().filter(|info| !info.came_from.is_empty()),
        Err(error) => {
            return tracing::warn!(%service, error = error_chain(&error), "can't look at generations");
        }
    };
    let Some(base) = bases.next_back().map(|info| info.id) else { return };
    match store.retire_superseded(base) {
        Ok(report) if report.dropped.is_empty() && report.kept.is_empty() => {}
        Ok(report) => {
            let (dropped, kept, bytes) = (report.dropped.len(), report.kept.len(), report.bytes_freed);
            tracing::info!(%service, base = %base.short(), dropped, kept, bytes, "an older generation is retired");
        }
        // Whoever is at it changes what is to be looked at; the next snapshot has it looked at again.
        Err(error) if error.kind() == ErrorKind::Busy => {
            tracing::debug!(%service, "an older generation is retired later");
        }
        Err(error) => {
            tracing::warn!(%service, base = %base.short(), error = error_chain(&error), "can't retire");
        }
    }
}
