//! Group commit: what has come of any number of parts is synced together, and what is complete by that is imported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::SnapshotId;
use sustain_store::{Appended, GroupReceiver, error_chain};

use super::coming::{Kind, PartReceiver};
use super::{Depot, DepotError};
use crate::keeper::{Part, Which};
use crate::transport::links::lock;

/// What became of parts.
#[derive(Debug, Default)]
pub(crate) struct SyncReport {
    /// Parts that are synced now, or can't be. Those that wait for others of their snapshots are not among them: they
    /// are in the report of the call that has the last one, whoever asked for that.
    pub(crate) parts: Vec<(Part, Result<(), Arc<DepotError>>)>,
    /// Snapshots that are in the store now and were not before.
    pub(crate) imported: Vec<SnapshotId>,
}

impl Depot {
    /// Makes parts that have come whole, or were made, survive a power cut, and imports what is complete then. Without
    /// any parts it tries again what did not work before.
    pub(crate) fn sync(&self, parts: &[Part]) -> SyncReport {
        let mut report = SyncReport::default();
        let (whole, fragments): (BTreeSet<Part>, BTreeSet<Part>) =
            parts.iter().partition(|part| part.which == Which::Whole);
        self.sync_fragments(fragments, &whole, &mut report);
        self.keep_whole(whole, &mut report);
        report.imported = self.import_complete();
        if parts.is_empty() {
            if let Err(error) = self.let_go() {
                let error = error_chain(&error);
                tracing::debug!(error, "what is not needed stays for now");
            }
        }
        self.settle_waiting(&mut report);
        let done = report.parts.iter().filter(|(_, outcome)| outcome.is_ok());
        lock(&self.synced).extend(done.map(|(part, _)| *part));
        report
    }

    /// Fragments, and the sheets of these packs.
    fn sync_fragments(&self, parts: BTreeSet<Part>, whole: &BTreeSet<Part>, report: &mut SyncReport) {
        let mut appended: BTreeMap<Part, Appended> = BTreeMap::new();
        for part in parts {
            match self.append(&part) {
                Ok(Some(fragment)) => _ = appended.insert(part, fragment),
                Ok(None) => report.parts.push((part, Ok(()))),
                Err(error) => report.parts.push((part, Err(Arc::new(error)))),
            }
        }
        let mut all: Vec<Appended> = appended.values().cloned().collect();
        for part in whole {
            let noted = lock(&self.sheets).get(&part.pack).cloned();
            // One that can't be kept is asked for again when it is needed.
            all.extend(noted.and_then(|sheet| self.fragments.put_sheet(&sheet).ok()));
        }
        if all.is_empty() {
            return;
        }
        let outcome = self.fragments.sync(&all).map_err(|error| Arc::new(DepotError::from(error)));
        for part in appended.keys() {
            // Also of one that is lost on its way: who receives it again finds what came.
            lock(&self.coming).remove(part);
            lock(&self.appended).remove(part);
            report.parts.push((*part, outcome.clone()));
        }
        if outcome.is_ok() {
            self.forget_sheets(appended.keys().chain(whole).map(|part| part.pack));
        }
    }

    /// Appends a fragment that has come or was made; none if it is held already.
    fn append(&self, part: &Part) -> Result<Option<Appended>, DepotError> {
        if let Some(appended) = lock(&self.appended).get(part) {
            return Ok(Some(appended.clone()));
        }
        if let Some(receiver) = self.coming(part) {
            if let Kind::Fragment(receiver) = &receiver.kind {
                return Ok(Some(receiver.finish()?));
            }
        }
        let known = self.known();
        let (service, pack) = known.pack(&part.pack).ok_or(DepotError::Unlisted { part: *part })?;
        let is_held = pack.cut.is_some_and(|cut| {
            self.held(service, &pack, cut).any(|index| part.which == Which::Fragment(index))
        });
        if is_held { Ok(None) } else { Err(DepotError::NotHere { part: *part }) }
    }

    /// Gives packs that have come their names in the store. They wait then.
    fn keep_whole(&self, parts: BTreeSet<Part>, report: &mut SyncReport) {
        let mut receivers = Vec::new();
        for part in parts {
            match self.coming(&part) {
                Some(receiver) => receivers.push((part, receiver)),
                None if self.store.has_pack(&part.pack) => _ = lock(&self.waiting).insert(part),
                None => report.parts.push((part, Err(Arc::new(DepotError::NotHere { part })))),
            }
        }
        let packs: Vec<Arc<GroupReceiver>> = receivers.iter().filter_map(|(_, r)| pack(r)).collect();
        if packs.is_empty() {
            return;
        }
        match self.store.keep_received(&packs) {
            Ok(()) => receivers.iter().for_each(|(part, _)| self.kept(part)),
            // One of them may be what it is about.
            Err(_) if packs.len() > 1 => {
                for (part, receiver) in &receivers {
                    let Some(pack) = pack(receiver) else { continue };
                    self.keep_one(part, pack, report);
                }
            }
            Err(error) => {
                for (part, _) in &receivers {
                    lock(&self.coming).remove(part);
                }
                let error = Arc::new(DepotError::from(error));
                report.parts.extend(receivers.iter().map(|(part, _)| (*part, Err(error.clone()))));
            }
        }
    }

    fn keep_one(&self, part: &Part, pack: Arc<GroupReceiver>, report: &mut SyncReport) {
        match self.store.keep_received(&[pack]) {
            Ok(()) => self.kept(part),
            Err(error) => {
                lock(&self.coming).remove(part);
                report.parts.push((*part, Err(Arc::new(error.into()))));
            }
        }
    }

    fn kept(&self, part: &Part) {
        lock(&self.coming).remove(part);
        lock(&self.waiting).insert(*part);
    }

    /// Reports packs that waited and count now, or never will.
    fn settle_waiting(&self, report: &mut SyncReport) {
        let known = self.known();
        let is_settled = self.settled(&known);
        lock(&self.waiting).retain(|part| {
            let outcome = if known.pack(&part.pack).is_none() {
                Err(Arc::new(DepotError::Unlisted { part: *part }))
            } else if is_settled(&part.pack) {
                Ok(())
            } else if !self.store.has_pack(&part.pack) {
                // It was dropped from the store while it waited.
                Err(Arc::new(DepotError::NotHere { part: *part }))
            } else if let Some(snapshot) = self.refused_for(&known, &part.pack) {
                Err(Arc::new(DepotError::Refused { part: *part, snapshot }))
            } else {
                return true;
            };
            report.parts.push((*part, outcome));
            false
        });
    }
}

fn pack(receiver: &Arc<PartReceiver>) -> Option<Arc<GroupReceiver>> {
    match &receiver.kind {
        Kind::Pack(pack) => Some(pack.clone()),
        Kind::Fragment(_) | Kind::Here(_) => None,
    }
}
