//! Whether the kernel notes writes for us here, found out by doing it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::page_set::{CHUNK_BYTES, PageSet};
use super::preload::{Announcement, Obstacle};
use super::protected::Protected;
use crate::command_line::SANDBOX;
use crate::features::QemuFeatures;
use crate::launch::ending;
use crate::limits;
use crate::memory_file;
use crate::process::{Launch, Process};
use crate::qmp::Client;

/// Memory that is tried on.
const BYTES: u64 = 16 * CHUNK_BYTES;

/// Why not, and what to set.
type Finding = Option<(String, String)>;

/// What was found out, for as long as this process lives.
static FOUND: Mutex<BTreeMap<PathBuf, Finding>> = Mutex::new(BTreeMap::new());

/// What keeps the kernel from noting what this QEMU writes, and what to set so that it does; none if nothing does.
/// Asks once, by starting a QEMU without a machine: it takes 0.1 s.
pub(crate) fn probe(qemu: &Path, features: &QemuFeatures) -> Finding {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = found.get(qemu) {
        return known.clone();
    }
    let finding = match try_tracking(qemu, features) {
        Ok(_) => None,
        Err(obstacle) => {
            obstacle.warn_once();
            Some((obstacle.to_string(), obstacle.hint().to_owned()))
        }
    };
    found.insert(qemu.to_owned(), finding.clone());
    finding
}

fn try_tracking(qemu: &Path, features: &QemuFeatures) -> Result<Protected, Obstacle> {
    let failed = |source| Obstacle::Announce { source };
    let memory = memory_file::create_sized("sustain-probe", BYTES).map_err(failed)?;
    let announcement = Announcement::new(&memory)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let launch = Launch {
        command_line: announcement.wrap(command_line(qemu, features)),
        stdin: memory.try_clone().map_err(failed)?.into(),
        stdout: theirs.into(),
        console: None,
    };
    let process = Process::start(launch).map_err(failed)?;
    let _qmp = Client::connect(ours, limits::QEMU_START_TIMEOUT).map_err(|error| {
        let ended = ending(&process, &error).map(|report| report.to_string());
        Obstacle::Trial { reason: ended.unwrap_or_else(|| error.to_string()) }
    })?;
    Protected::new(announcement, process.pid(), &memory, &mut PageSet::empty(BYTES))
}

fn command_line(qemu: &Path, features: &QemuFeatures) -> Vec<OsString> {
    let sandbox = ["-sandbox", SANDBOX];
    let memory = format!("memory-backend-file,id=ram0,size={BYTES},share=on,mem-path=/proc/self/fd/0");
    let arguments = [
        ["-name", "sustain:probe"].as_slice(),
        if features.sandbox { &sandbox } else { &[] },
        &["-nodefaults", "-no-user-config", "-S"],
        &["-display", "none"],
        &["-machine", "none"],
        &["-object", &memory],
        &["-chardev", "socket,id=control0,fd=1"],
        &["-mon", "chardev=control0,mode=control"],
    ];
    let program = std::iter::once(qemu.as_os_str().to_owned());
    program.chain(arguments.concat().into_iter().map(OsString::from)).collect()
}
