//! Saving and loading the state of processors and devices, without the memory.
//!
//! Saved by `xen-save-devices-state`: 80 KB in 1.3 to 2 ms, where a migration without memory takes 4 to 7 ms. Its
//! stream is a migration's but for the configuration section in front and the description behind, so the
//! QEMU that loads it by `migrate-incoming` is told to expect neither ([`crate::command_line`]). With
//! `live: false`, as otherwise QEMU gives up the disks and takes 20 to 35 ms to have them back.
//!
//! It leaves out read-only memory, and a QEMU that waits for a state doesn't load its firmware's file either: a
//! guest that was restored could not reboot. So the firmware comes as a flash device, which reads its own file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use crate::device_header::{FeatureWord, MachineDescription};
use crate::error::SnapshotError;
use crate::limits::{self, QMP_COMMAND_TIMEOUT};
use crate::memory_file;
use crate::qmp::{Client, Event, Pending, QmpError};

/// The descriptor's name inside QEMU.
const DESCRIPTOR: &str = "sustain-device";

/// The set of descriptors inside QEMU that holds the file states are saved to.
const DESCRIPTOR_SET: u64 = 1;

/// Leaves shared memory out of all further migrations, and asks for events about them.
pub(crate) fn configure(qmp: &mut Client) -> Result<(), QmpError> {
    let capabilities = json!([
        { "capability": "x-ignore-shared", "state": true },
        { "capability": "events", "state": true },
    ]);
    let arguments = json!({ "capabilities": capabilities });
    qmp.execute("migrate-set-capabilities", arguments, QMP_COMMAND_TIMEOUT).map(drop)
}

/// The file that QEMU saves states to, handed over once.
#[derive(Debug)]
pub(crate) struct StateFile {
    /// For reading.
    file: File,
    /// What QEMU has a copy of. Its position is QEMU's too.
    writing: File,
}

impl StateFile {
    /// Makes the file.
    pub(crate) fn create() -> io::Result<Self> {
        let file = memory_file::create(DESCRIPTOR)?;
        // QEMU takes a descriptor for writing only if it can't do more.
        let writing = File::options().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok(Self { file, writing })
    }

    /// Hands it to QEMU.
    pub(crate) fn hand_over(&self, qmp: &mut Client) -> Result<(), QmpError> {
        let arguments = json!({ "fdset-id": DESCRIPTOR_SET });
        qmp.execute_with("add-fd", arguments, self.writing.as_fd(), QMP_COMMAND_TIMEOUT).map(drop)
    }

    /// Makes ready for the next state: done before the guest is stopped.
    pub(crate) fn rewind(&mut self) -> Result<(), SnapshotError> {
        let rewound = self.writing.set_len(0).and_then(|()| self.writing.seek(SeekFrom::Start(0)));
        let doing = "make a memory file ready for the device state";
        rewound.map(drop).map_err(|source| SnapshotError::MemoryFile { doing, source })
    }

    /// What was saved, behind the description of its machine.
    pub(crate) fn region(&self, machine: &MachineDescription) -> Result<Vec<u8>, SnapshotError> {
        let failed = |source| SnapshotError::MemoryFile { doing: "read the saved device state", source };
        let bytes = self.file.metadata().map_err(failed)?.len();
        let mut region =
            machine.to_header().map_err(|error| SnapshotError::Save { reason: error.to_string() })?;
        let bytes_max = limits::DEVICE_BYTES_MAX - region.len() as u64;
        if bytes == 0 || bytes > bytes_max {
            return Err(SnapshotError::DeviceSize { bytes, bytes_max });
        }
        let start = region.len();
        region.resize(start + usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        self.file.read_exact_at(&mut region[start..], 0).map_err(failed)?;
        Ok(region)
    }
}

/// Begins to save the state of a VM that stands still, or will by then.
pub(crate) fn begin_save(qmp: &mut Client) -> Result<Pending, QmpError> {
    let arguments = json!({ "filename": format!("/dev/fdset/{DESCRIPTOR_SET}"), "live": false });
    qmp.begin("xen-save-devices-state", &arguments, limits::DEVICE_SAVE_TIMEOUT)
}

/// What the guest finds its first processor able to do.
pub(crate) fn features(qmp: &mut Client) -> Result<Vec<FeatureWord>, QmpError> {
    const WRONG: QmpError = QmpError::Protocol { what: "features of a processor that can't be read" };
    let cpus = qmp.execute("query-cpus-fast", json!({}), QMP_COMMAND_TIMEOUT)?;
    let path = cpus.pointer("/0/qom-path").ok_or(WRONG)?.clone();
    let arguments = json!({ "path": path, "property": "feature-words" });
    let words = qmp.execute("qom-get", arguments, QMP_COMMAND_TIMEOUT)?;
    let number = |word: &Value, name: &str| u32::try_from(word.get(name)?.as_u64()?).ok();
    let read = |word: &Value| {
        Some(FeatureWord {
            eax: number(word, "cpuid-input-eax")?,
            ecx: number(word, "cpuid-input-ecx"),
            register: word.get("cpuid-register")?.as_str()?.to_owned(),
            bits: number(word, "features")?,
        })
    };
    let words = words.as_array().ok_or(WRONG)?;
    if words.len() > limits::FEATURE_WORDS_MAX {
        return Err(WRONG);
    }
    let mut features = words.iter().map(read).collect::<Option<Vec<_>>>().ok_or(WRONG)?;
    // Most of some twenty are empty, and what is not there is not compared.
    features.retain(|word| word.bits != 0);
    Ok(features)
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

/// Loads a saved state, which begins at this offset, into a QEMU that waits for one. The VM still stands
/// afterwards.
pub(crate) fn load(qmp: &mut Client, mut file: &File, start: u64) -> Result<(), LoadFailure> {
    // The descriptor that QEMU gets shares its position with ours.
    let sought = file.seek(SeekFrom::Start(start));
    sought.map_err(|error| LoadFailure::Refused(error.to_string()))?;
    let name = json!({ "fdname": DESCRIPTOR });
    qmp.execute_with("getfd", name, file.as_fd(), QMP_COMMAND_TIMEOUT)?;
    // `fd:` is the one kind of address that QEMU 7.2 and all later ones take for a file.
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
