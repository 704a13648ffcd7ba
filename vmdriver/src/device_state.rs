//! Saving and loading the state of processors and devices, by a migration without the memory.
//!
//! `fd:` is the one kind of migration address that QEMU 7.2 and all later ones take for a file: 7.2 has
//! no `file:`. The state goes into a memory file of ours; nothing of it touches a disk.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::time::Instant;

use serde_json::json;

use crate::error::SnapshotError;
use crate::limits::{self, QMP_COMMAND_TIMEOUT};
use crate::memory_file;
use crate::qmp::{Client, Event, QmpError};

/// The descriptor's name inside QEMU.
const DESCRIPTOR: &str = "sustain-device";

/// Leaves shared memory out of all further migrations, and asks for events about them.
pub(crate) fn configure(qmp: &mut Client) -> Result<(), QmpError> {
    let capabilities = json!([
        { "capability": "x-ignore-shared", "state": true },
        { "capability": "events", "state": true },
    ]);
    let arguments = json!({ "capabilities": capabilities });
    qmp.execute("migrate-set-capabilities", arguments, QMP_COMMAND_TIMEOUT).map(drop)
}

/// Saves the state of a VM that stands still.
pub(crate) fn save(qmp: &mut Client) -> Result<File, SnapshotError> {
    let doing = "saving the device state";
    let failed = |source| SnapshotError::Qmp { doing, source };
    let file = memory_file::create(DESCRIPTOR).map_err(|source| SnapshotError::MemoryFile {
        doing: "make a memory file for device state",
        source,
    })?;
    qmp.give_descriptor(DESCRIPTOR, file.as_fd(), QMP_COMMAND_TIMEOUT).map_err(failed)?;
    let address = json!({ "uri": format!("fd:{DESCRIPTOR}") });
    qmp.execute("migrate", address, QMP_COMMAND_TIMEOUT).map_err(failed)?;
    let saved = match qmp.wait_for_event("device state saved", limits::DEVICE_SAVE_TIMEOUT, is_end) {
        Ok(event) => event.text("status") == Some("completed"),
        Err(source) => {
            // What goes on being saved would keep the VM from being resumed.
            let _ = qmp.execute("migrate_cancel", json!({}), QMP_COMMAND_TIMEOUT);
            let _ = settle(qmp);
            return Err(failed(source));
        }
    };
    settle(qmp).map_err(failed)?;
    if !saved {
        return Err(SnapshotError::Save { reason: migration_error(qmp) });
    }
    check_size(&file)?;
    Ok(file)
}

fn check_size(file: &File) -> Result<(), SnapshotError> {
    let metadata = file.metadata();
    let bytes = metadata
        .map_err(|source| SnapshotError::MemoryFile { doing: "measure the saved device state", source })?
        .len();
    if bytes == 0 || bytes > limits::DEVICE_BYTES_MAX {
        return Err(SnapshotError::DeviceSize { bytes, bytes_max: limits::DEVICE_BYTES_MAX });
    }
    Ok(())
}

/// Waits until QEMU has left the state that it is in while a migration ends: the event comes a moment
/// earlier, and until then QEMU refuses to resume.
fn settle(qmp: &mut Client) -> Result<(), QmpError> {
    let started = Instant::now();
    loop {
        let status = qmp.execute("query-status", json!({}), QMP_COMMAND_TIMEOUT)?;
        if status.get("status").and_then(serde_json::Value::as_str) != Some("finish-migrate") {
            return Ok(());
        }
        if started.elapsed() > limits::DEVICE_SAVE_TIMEOUT {
            let timeout = limits::DEVICE_SAVE_TIMEOUT;
            return Err(QmpError::Timeout { what: "end of the migration", timeout });
        }
        std::thread::sleep(limits::POLL_INTERVAL);
    }
}

/// What went wrong with a load.
pub(crate) enum LoadFailure {
    /// QEMU says why.
    Refused(String),
    /// QEMU went away or does not answer: it ends itself when it can't read a state.
    Qmp(QmpError),
}

impl From<QmpError> for LoadFailure {
    fn from(error: QmpError) -> Self {
        Self::Qmp(error)
    }
}

/// Loads a saved state into a QEMU that waits for one. The VM still stands afterwards.
pub(crate) fn load(qmp: &mut Client, mut file: &File) -> Result<(), LoadFailure> {
    // The descriptor that QEMU gets shares its position with ours.
    let rewound = file.seek(SeekFrom::Start(0));
    rewound.map_err(|error| LoadFailure::Refused(error.to_string()))?;
    qmp.give_descriptor(DESCRIPTOR, file.as_fd(), QMP_COMMAND_TIMEOUT)?;
    let address = json!({ "uri": format!("fd:{DESCRIPTOR}") });
    qmp.execute("migrate-incoming", address, QMP_COMMAND_TIMEOUT)?;
    let event = qmp.wait_for_event("device state loaded", limits::DEVICE_LOAD_TIMEOUT, is_end)?;
    if event.text("status") == Some("completed") {
        return Ok(());
    }
    Err(LoadFailure::Refused(migration_error(qmp)))
}

fn is_end(event: &Event) -> bool {
    event.name == "MIGRATION" && matches!(event.text("status"), Some("completed" | "failed" | "cancelled"))
}

/// QEMU's own words about the migration that failed.
fn migration_error(qmp: &mut Client) -> String {
    let answer = qmp.execute("query-migrate", json!({}), QMP_COMMAND_TIMEOUT);
    let text = answer.ok().and_then(|info| Some(info.get("error-desc")?.as_str()?.to_owned()));
    // QEMU 7.2 tells its log only.
    text.unwrap_or_else(|| "its log has the reason".to_owned())
}
