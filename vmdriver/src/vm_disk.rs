//! The guest's disk as part of a VM: made for a boot or a restore, frozen and offered for a snapshot.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sustain_proto::RegionName;

use crate::disk::{BlockSource, Disk, DiskError, DiskOptions, DiskOrigin, raw_image, remove_folder};
use crate::driver::{REGION_DISK, SnapshotScope, SnapshotSink};
use crate::error::{SnapshotError, StartError};
use crate::image_info::inspect_image;
use crate::limits::{DISK_STILL_PATIENCE, DISK_WAIT_MAX, FROZEN_LAYERS_MAX, POLL_INTERVAL};
use crate::spec::VmSpec;

/// The disk's folder in the VM's.
const FOLDER: &str = "disk";
/// Where converted images are kept.
const IMAGES: &str = "images";

/// Makes the disk that a VM first boots from, if it has one.
pub(crate) fn for_boot(
    spec: &VmSpec,
    run_dir: &Path,
    options: &DiskOptions,
) -> Result<Option<Disk>, StartError> {
    let Some(disk) = &spec.disk else { return Ok(None) };
    let failed = |source| StartError::Disk { source };
    let service = &spec.service;
    let mut told = 0.0;
    let mut progress = |percent: f64| {
        if percent >= told + 10.0 {
            told = percent;
            tracing::info!(%service, percent, "converting the disk image");
        }
    };
    let image = raw_image(&disk.image, &run_dir.join(IMAGES), &mut progress).map_err(failed)?;
    Disk::create(&run_dir.join(FOLDER), DiskOrigin::Image(image), options).map(Some).map_err(failed)
}

/// Why no VM could be booted from its image now, if so. A restore has the disk from the snapshot.
pub(crate) fn boot_problem(spec: &VmSpec) -> Option<String> {
    let disk = spec.disk.as_ref()?;
    inspect_image(&disk.image).err().map(|error| sustain_store::error_chain(&error))
}

/// Makes the disk of a VM that is restored.
pub(crate) fn for_restore(
    source: Arc<dyn BlockSource>,
    run_dir: &Path,
    options: &DiskOptions,
) -> Result<Disk, StartError> {
    Disk::create(&run_dir.join(FOLDER), DiskOrigin::Blocks(source), options)
        .map_err(|source| StartError::Disk { source })
}

/// Removes the disk, or the state of a service run by programs, that a killed node left, before its next VM would: that
/// may run on another node for ever. To be called while no VM runs in this folder.
///
/// # Errors
/// If they can't be removed.
pub fn remove_left_behind(run_dir: &Path) -> io::Result<()> {
    remove_folder(&run_dir.join(FOLDER)).and(crate::command::remove_left_behind(run_dir))
}

/// Whether the disk can be frozen, asked before the VM is paused for nothing.
pub(crate) fn check(disk: &mut Disk) -> Result<(), SnapshotError> {
    disk.settle();
    disk.check_image().map_err(|source| SnapshotError::Disk { source })?;
    let status = disk.status().map_err(|source| SnapshotError::Disk { source })?;
    if status.frozen.len() >= FROZEN_LAYERS_MAX { Err(SnapshotError::Busy) } else { still(disk) }
}

/// Waits for a moment in which no read waits for a block of a restored disk: QEMU pauses a VM only when all requests
/// to its disk are done, and the guest would stand for as long as the block takes. Where reads come all the
/// time, those count that take longer than a fetch does that goes well.
pub(crate) fn still(disk: &Disk) -> Result<(), SnapshotError> {
    let began = Instant::now();
    loop {
        let status = disk.status().map_err(|source| SnapshotError::Disk { source })?;
        let Some(waiting_ms) = status.waiting_ms else { return Ok(()) };
        if began.elapsed() >= DISK_STILL_PATIENCE {
            let is_long = u128::from(waiting_ms) > DISK_WAIT_MAX.as_millis();
            return if is_long { Err(SnapshotError::Unreachable) } else { Ok(()) };
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Freezes the disk, while the VM stands still.
pub(crate) fn freeze(disk: &mut Disk) -> Result<u64, SnapshotError> {
    disk.freeze().map_err(|error| match error {
        DiskError::Busy => SnapshotError::Busy,
        source => SnapshotError::Disk { source },
    })
}

/// Offers what was frozen to the sink, while the VM runs again.
pub(crate) fn offer(
    disk: &mut Disk,
    layer: u64,
    scope: SnapshotScope,
    sink: &mut dyn SnapshotSink,
) -> Result<(), SnapshotError> {
    let offered = offer_frozen(disk, layer, scope, sink);
    // Whatever became of it: nobody reads the layer any more, and what changed is remembered.
    disk.taken(layer);
    offered
}

fn offer_frozen(
    disk: &mut Disk,
    layer: u64,
    scope: SnapshotScope,
    sink: &mut dyn SnapshotSink,
) -> Result<(), SnapshotError> {
    let frozen = disk.frozen(layer).map_err(|source| SnapshotError::Disk { source })?;
    let region =
        RegionName::new(REGION_DISK).map_err(|error| SnapshotError::Save { reason: error.to_string() })?;
    let changed = match scope {
        SnapshotScope::Whole => None,
        SnapshotScope::Changes => frozen.changed(),
    };
    sink.region(&region, frozen.source(), changed)
        .map_err(|source| SnapshotError::Sink { region, source })?;
    // What was just read of it may have been another's.
    disk.check_image().map_err(|source| SnapshotError::Disk { source })
}

#[cfg(test)]
mod tests {
    use sustain_proto::ServiceName;

    use super::*;
    use crate::driver::VmDriver;
    use crate::qemu::QemuDriver;
    use crate::spec::{Accel, DiskSpec};

    /// A node without the image stood in no election, although nobody reads the image once there is a snapshot.
    #[test]
    fn a_node_without_the_image_can_restore_and_says_that_it_can_not_boot() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = VmSpec::new(ServiceName::new("mail").unwrap(), "/proc/self/exe");
        let image = folder.path().join("image");
        spec.accel = Accel::Tcg;
        spec.disk = Some(DiskSpec { image: image.clone() });
        let check = || QemuDriver::new().comparing().check(&spec).unwrap().boot_problem;
        let problem = check().unwrap();
        assert!(problem.contains(&image.display().to_string()), "{problem}");
        // It is looked at anew each time.
        std::fs::write(&image, [1; 512]).unwrap();
        assert_eq!(check(), None);
        std::fs::write(&image, b"KDMV").unwrap();
        assert!(check().unwrap().contains("vmdk"));
    }
}
