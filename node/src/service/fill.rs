//! Making a VM ready to go on: its memory is filled from the store, and its disk knows where its blocks are to be had.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sustain_gossip::RemoteSnapshot;
use sustain_proto::SnapshotId;
use sustain_store::{ErrorKind, RestoreError, error_chain};
use sustain_vmdriver::{PreparedVm, StartError};

use super::cancel::Cancel;
use super::mend::Mender;
use super::rest::RestBlocks;
use super::vm_thread::VmSettings;

/// A VM with its memory, and where its disk comes from if a part of it is elsewhere.
pub(super) struct Filled {
    pub(super) vm: Box<dyn PreparedVm>,
    pub(super) remote: Option<RestBlocks>,
}

/// Why a VM can't be made ready to go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    /// The driver refuses.
    #[error("can't prepare the VM")]
    Prepare(#[from] StartError),
    /// The snapshot can't be had from the store.
    #[error("can't restore the snapshot")]
    Restore(#[from] RestoreError),
}

impl FillError {
    fn is_damage(&self) -> bool {
        matches!(self, Self::Restore(error) if error.kind() == ErrorKind::Corrupt)
    }
}

/// What filling takes.
pub(super) struct Filler<'a> {
    pub(super) settings: &'a VmSettings,
    pub(super) cancelled: &'a AtomicBool,
}

impl Filler<'_> {
    /// Makes a VM from a snapshot, which is whole here unless one is given that is not. Has a second try after what is
    /// damaged here was sent again by the others.
    pub(super) fn fill_or_mend(
        &self,
        snapshot: SnapshotId,
        remote: Option<Arc<RemoteSnapshot>>,
        say: impl Fn(String),
    ) -> Result<Filled, FillError> {
        let error = match self.fill(snapshot, remote.clone()) {
            Err(error) if error.is_damage() => error,
            other => return other,
        };
        let lazy = self.settings.driver.lazy_regions(&self.settings.spec);
        match self.mender().snapshot(snapshot, remote.as_deref(), lazy) {
            Ok((0, _)) => Err(error),
            Ok((damaged, remote)) => {
                let why = error_chain(&error);
                say(format!("{damaged} damaged packs were sent again by the others: {why}"));
                self.fill(snapshot, remote.map(Arc::new))
            }
            Err(failed) => {
                say(error_chain(&failed));
                Err(error)
            }
        }
    }

    fn fill(&self, snapshot: SnapshotId, remote: Option<Arc<RemoteSnapshot>>) -> Result<Filled, FillError> {
        let settings = self.settings;
        let mut vm = settings.driver.prepare(&settings.spec, &settings.run)?;
        let cancel = Cancel(self.cancelled);
        let Some(remote) = remote else {
            if let Some(blocks) = self.mender().disk(snapshot).map_err(RestoreError::from)? {
                vm.set_disk(blocks);
            }
            settings.store.restore(snapshot, vm.target(), &cancel)?;
            return Ok(Filled { vm, remote: None });
        };
        let blocks = RestBlocks::new(snapshot, remote.clone(), self.mender());
        if let Some(disk) = blocks.disk() {
            vm.set_disk(disk);
        }
        remote.reader().restore(vm.target(), &cancel)?;
        Ok(Filled { vm, remote: Some(blocks) })
    }

    fn mender(&self) -> Mender {
        let VmSettings { store, cluster, runtime, .. } = self.settings;
        Mender { store: store.clone(), cluster: cluster.clone(), runtime: runtime.clone() }
    }
}
