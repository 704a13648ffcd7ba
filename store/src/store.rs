//! The handle.
use crate::*;
use std::path::Path;
use sustain_proto::*;

/// An open store. Cheap to clone; all clones are one store, which closes when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Store {}

fn nothing() -> ReadError {
    ReadError::NotFound { selector: String::new() }
}

#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
impl Store {
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        Err(OpenError::NotFound { path: dir.to_owned() })
    }
    pub fn opened(&self) -> &OpenReport {
        const R: &OpenReport = &OpenReport { rebuilt: None, bad: Vec::new(), swept: 0, adopted: 0 };
        R
    }
    pub fn path(&self) -> &Path {
        Path::new("")
    }
    pub fn begin_push(&self, request: PushRequest) -> Result<Push, PushError> {
        Err(PushError::Broken)
    }
    pub fn services(&self) -> Result<Vec<ServiceName>, ReadError> {
        Err(nothing())
    }
    pub fn snapshots(&self, service: Option<&ServiceName>) -> Result<Vec<SnapshotInfo>, ReadError> {
        Err(nothing())
    }
    pub fn resolve(&self, selector: &str) -> Result<SnapshotId, ReadError> {
        Err(nothing())
    }
    pub fn manifest(&self, id: SnapshotId) -> Result<(Manifest, Vec<u8>), ReadError> {
        Err(nothing())
    }
    pub fn manifests_for(&self, id: SnapshotId) -> Result<Vec<Vec<u8>>, ReadError> {
        Err(nothing())
    }
    pub fn packs_needed(&self, id: SnapshotId) -> Result<Vec<PackRef>, ReadError> {
        Err(nothing())
    }
    pub fn restore(
        &self,
        id: SnapshotId,
        target: &dyn RestoreTarget,
        progress: &dyn Progress,
    ) -> Result<RestoreReport, RestoreError> {
        Err(RestoreError::Cancelled)
    }
    pub fn rebase(
        &self,
        service: &ServiceName,
        promote: Option<SnapshotId>,
    ) -> Result<RebaseReport, RebaseError> {
        Err(RebaseError::Read(nothing()))
    }
    pub fn retire_superseded(&self, base: SnapshotId) -> Result<RetireReport, RebaseError> {
        Err(RebaseError::Read(nothing()))
    }
    pub fn verify(&self, progress: &dyn Progress) -> Result<VerifyReport, VerifyError> {
        Err(VerifyError::Cancelled)
    }
    pub fn mark_durable(&self, id: SnapshotId, level: u32) -> Result<(), ReadError> {
        Err(nothing())
    }
    pub fn packs_lacking(&self, manifests: &[Vec<u8>]) -> Result<Vec<PackId>, ImportError> {
        Err(ImportError::Read(nothing()))
    }
    pub fn has_pack(&self, id: &PackId) -> bool {
        false
    }
    pub fn read_pack(&self, id: PackId) -> Result<PackReader, ReadError> {
        Err(nothing())
    }
    pub fn receive_pack(&self, id: PackId, bytes: u64) -> Result<PackReceiver, ImportError> {
        Err(ImportError::Read(nothing()))
    }
    pub fn import(&self, manifests: &[Vec<u8>]) -> Result<Vec<SnapshotId>, ImportError> {
        Err(ImportError::Read(nothing()))
    }
}
