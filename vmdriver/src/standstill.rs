//! The guest standing still: as short as can be, and never for good.

use std::time::Duration;

use serde_json::json;

use crate::device_state;
use crate::error::SnapshotError;
use crate::limits::QMP_COMMAND_TIMEOUT;
use crate::qmp::{Client, Pending};

/// The guest standing still. Dropping it lets the guest go on, so that not even a panic leaves a service
/// standing.
pub(crate) struct Standstill<'a> {
    qmp: &'a mut Client,
    paused: &'a mut bool,
    saving: Option<Pending>,
    /// When it began, by QEMU's clock.
    pub(crate) since: Duration,
}

impl<'a> Standstill<'a> {
    /// Stops the guest, and has QEMU save the devices' state from then on, while we see to the memory. Both commands
    /// are sent at once, so that QEMU need not wait for us between them.
    ///
    /// # Errors
    /// If the guest can't be stopped.
    pub(crate) fn begin(qmp: &'a mut Client, paused: &'a mut bool) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Qmp { doing: "pausing the guest", source };
        // Made before the command is sent: should its answer stay out, the drop undoes it all the same.
        let mut standstill = Self { qmp, paused, saving: None, since: Duration::ZERO };
        *standstill.paused = true;
        let qmp = &mut *standstill.qmp;
        let stopping = qmp.begin("stop", &json!({}), QMP_COMMAND_TIMEOUT).map_err(failed)?;
        standstill.saving = Some(device_state::begin_save(qmp).map_err(failed)?);
        // The event comes before what was under way on disks has ended; the answer comes after it.
        standstill.qmp.finish(stopping).map_err(failed)?;
        let stopped =
            standstill.qmp.wait_for_event("STOP", QMP_COMMAND_TIMEOUT, |event| event.name == "STOP");
        standstill.since = stopped.map_err(failed)?.at;
        Ok(standstill)
    }

    /// Waits until the devices' state is saved.
    ///
    /// # Errors
    /// If QEMU can't save it.
    pub(crate) fn finish_save(&mut self) -> Result<(), SnapshotError> {
        let Some(saving) = self.saving.take() else { return Ok(()) };
        let failed = |source| SnapshotError::Qmp { doing: "saving the device state", source };
        self.qmp.finish(saving).map(drop).map_err(failed)
    }

    /// Lets the guest go on; returns when it did, by QEMU's clock.
    ///
    /// # Errors
    /// If QEMU does not: then the guest stands still.
    pub(crate) fn end(self) -> Result<Duration, SnapshotError> {
        let resumed = resume(self.qmp)?;
        *self.paused = false;
        Ok(resumed)
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        if *self.paused {
            match resume(self.qmp) {
                Ok(_) => *self.paused = false,
                Err(error) => tracing::error!(%error, "a VM stands still after a snapshot that failed"),
            }
        }
    }
}

/// Lets the guest go on; returns when it did, by QEMU's clock.
///
/// # Errors
/// If QEMU does not.
pub(crate) fn resume(qmp: &mut Client) -> Result<Duration, SnapshotError> {
    let failed = |source| SnapshotError::Resume { source };
    qmp.execute("cont", json!({}), QMP_COMMAND_TIMEOUT).map_err(failed)?;
    let resumed = qmp.wait_for_event("RESUME", QMP_COMMAND_TIMEOUT, |event| event.name == "RESUME");
    resumed.map(|event| event.at).map_err(failed)
}
