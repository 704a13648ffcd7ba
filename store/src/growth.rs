//! How far a service's generation has grown, from its manifests alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{PackId, ServiceName};

use crate::holds::{Family, Reason, Wishes, holds};
use crate::named_pins::NamedPins;
use crate::policy::Growth;
use crate::rebase::RebaseOptions;
use crate::state::{Snapshot, State};
use crate::store::Store;
use crate::{Fault, ReadError};

impl Store {
    /// How far the generation of a service's newest snapshot has grown. What is needed of it is what would stay if its
    /// newest durable snapshot became a base now, or the newest one if none is durable.
    ///
    /// # Errors
    /// If there is no snapshot of the service, or a pin can't be read.
    pub fn growth(&self, service: &ServiceName, options: &RebaseOptions) -> Result<Growth, ReadError> {
        let pins = NamedPins::read(self.shared.disk.as_ref(), &self.shared.layout)?;
        let state = self.shared.state();
        let promoted = match options.promote.and_then(|id| state.snapshots.get(&id)) {
            Some(promoted) => promoted.clone(),
            None => to_promote(&state.of_service(service))
                .ok_or_else(|| ReadError::NotFound { selector: format!("{service}@latest") })?,
        };
        let wishes = Wishes { retention: options.retention, now_ms: options.now_ms, pins: &pins };
        let changes_key = self.shared.changes_key(&promoted);
        Ok(Growth { changes_key, ..measure(&state, &promoted, wishes) })
    }

    /// The snapshots of a service's newest generation that don't follow its base: those that a rebase has kept.
    ///
    /// # Errors
    /// None at present.
    pub fn held(&self, service: &ServiceName) -> Result<Vec<sustain_proto::SnapshotId>, Fault> {
        let state = self.shared.state();
        let all = state.of_service(service);
        let Some(newest) = all.last() else { return Ok(Vec::new()) };
        let Some(base) = state.snapshots.get(&newest.generation()) else { return Ok(Vec::new()) };
        let family = Family::of(&all);
        let held = all.iter().rev().filter(|s| s.manifest.base() == Some(base.id));
        Ok(held.filter(|s| !family.precedes(base, s)).map(|s| s.id).collect())
    }
}

/// The newest durable snapshot of the newest one's line, or that one if none is durable.
pub(crate) fn to_promote(all: &[Arc<Snapshot>]) -> Option<Arc<Snapshot>> {
    let newest = all.last()?;
    let family = Family::of(all);
    let of_line = |s: &&Arc<Snapshot>| s.id == newest.id || family.precedes(s, newest);
    let durable = all.iter().rev().filter(|s| s.level.is_some()).filter(of_line);
    durable.max_by_key(|s| s.manifest.seq).or(Some(newest)).cloned()
}

/// Measures the generation of a snapshot that might become the base.
pub(crate) fn measure(state: &State, promoted: &Snapshot, wishes: Wishes<'_>) -> Growth {
    let all = state.of_service(&promoted.manifest.service);
    let reasons = holds(&all, promoted, wishes);
    let family = Family::of(&all);
    let of_generation: Vec<_> =
        all.iter().filter(|s| s.generation() == promoted.generation()).cloned().collect();
    let Some(base) = state.snapshots.get(&promoted.generation()) else { return Growth::default() };
    let is_delta = |s: &&Arc<Snapshot>| s.id != base.id;
    let (following, held): (Vec<_>, Vec<_>) =
        of_generation.iter().filter(is_delta).partition(|s| family.precedes(base, s));
    let packs = |snapshots: &mut dyn Iterator<Item = &Arc<Snapshot>>| -> BTreeMap<PackId, u64> {
        snapshots.flat_map(|s| &s.manifest.packs).map(|pack| (pack.id, pack.bytes)).collect()
    };
    let base_packs = packs(&mut std::iter::once(base));
    let mut beside: BTreeSet<PackId> = base_packs.keys().copied().collect();
    // What is kept of older ones says nothing about how far the generation has grown.
    beside.extend(packs(&mut held.into_iter()).into_keys());
    let deltas = packs(&mut following.iter().copied());
    let live = packs(&mut of_generation.iter().filter(|s| s.id == base.id || is_live(&reasons, s)));
    let listed = packs(&mut of_generation.iter());
    let sum = |packs: &BTreeMap<PackId, u64>, without: &dyn Fn(&PackId) -> bool| -> u64 {
        packs.iter().filter(|(id, _)| !without(id)).map(|(_, bytes)| bytes).sum()
    };
    Growth {
        deltas: u32::try_from(following.len()).unwrap_or(u32::MAX),
        base_bytes: sum(&base_packs, &|_| false),
        delta_bytes: sum(&deltas, &|id| beside.contains(id)),
        live_bytes: sum(&live, &|_| false),
        dead_bytes: sum(&listed, &|id| live.contains_key(id)),
        changes_key: false,
    }
}

fn is_live(reasons: &BTreeMap<sustain_proto::SnapshotId, BTreeSet<Reason>>, snapshot: &Snapshot) -> bool {
    reasons.contains_key(&snapshot.id)
}
