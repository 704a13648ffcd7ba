//! Whether KVM really works here: found out by running six instructions with it.
//!
//! That `/dev/kvm` opens proves little: inside some virtual machines it does, and then guests never get
//! past their first instruction. So a ROM that tells QEMU to exit with a code of ours is run for real.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::limits::KVM_PROBE_TIMEOUT;
use crate::memory_file;
use crate::process::{Launch, Process};

/// Least size of a firmware image on a PC.
const ROM_BYTES: usize = 64 * 1024;

/// Where a PC starts: the last 16 bytes of the firmware.
const RESET_OFFSET: usize = ROM_BYTES - 16;

/// The port of QEMU's `isa-debug-exit` device.
const EXIT_PORT: u8 = 0xf4;

/// What the ROM writes to that port. QEMU then exits with twice that and one.
const EXIT_VALUE: u8 = 0x2a;

/// mov al, 0x2a; out 0xf4, al; then cli, hlt and a jump back to it.
const PROGRAM: [u8; 8] = [0xb0, EXIT_VALUE, 0xe6, EXIT_PORT, 0xfa, 0xf4, 0xeb, 0xfd];

/// What was found out, per QEMU and processor model, for as long as this process lives.
static FOUND: Mutex<BTreeMap<(PathBuf, String), bool>> = Mutex::new(BTreeMap::new());

/// Whether this QEMU runs code of this processor model with KVM. Asks once; others wait for the answer.
pub(crate) fn works(qemu: &Path, cpu: &str) -> bool {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (qemu.to_owned(), cpu.to_owned());
    if let Some(known) = found.get(&key) {
        return *known;
    }
    let works = match probe(qemu, "kvm", cpu) {
        Ok(works) => works,
        Err(error) => {
            tracing::debug!(%error, "can't check KVM, so it is not used");
            false
        }
    };
    tracing::info!(qemu = %qemu.display(), cpu, works, "checked KVM");
    found.insert(key, works);
    works
}

/// Runs the ROM with an accelerator and sees whether its word comes out.
fn probe(qemu: &Path, accel: &str, cpu: &str) -> io::Result<bool> {
    if accel == "kvm" && File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let mut rom = vec![0_u8; ROM_BYTES];
    rom[RESET_OFFSET..RESET_OFFSET + PROGRAM.len()].copy_from_slice(&PROGRAM);
    let mut firmware = memory_file::create("sustain-probe")?;
    firmware.write_all(&rom)?;
    let mut command_line = vec![qemu.as_os_str().to_owned()];
    let arguments = [
        ["-name", "sustain:probe"].as_slice(),
        &["-nodefaults", "-no-user-config"],
        &["-display", "none"],
        &["-machine", "q35"],
        &["-accel", accel],
        &["-cpu", cpu],
        &["-m", "16M"],
        &["-bios", "/proc/self/fd/0"],
        &["-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
    ];
    command_line.extend(arguments.concat().into_iter().map(OsString::from));
    let stdout = OwnedFd::from(File::options().write(true).open("/dev/null")?);
    let process = Process::start(Launch { command_line, stdin: firmware.into(), stdout, console: None })?;
    let report = process.wait(KVM_PROBE_TIMEOUT);
    if let Some(report) = &report {
        tracing::debug!(accel, %report, "the probe ended");
    }
    Ok(report.is_some_and(|report| report.code == Some(i32::from(EXIT_VALUE) * 2 + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same ROM under emulation, which works everywhere: so a "no" is KVM's, not the ROM's.
    #[test]
    fn the_probe_tells_working_from_not_working() {
        let qemu = Path::new("qemu-system-x86_64");
        assert!(probe(qemu, "tcg", "qemu64").unwrap(), "is QEMU installed? run `make setup`");
        assert!(!probe(qemu, "no-such-accelerator", "qemu64").unwrap());
        assert!(!probe(Path::new("/bin/true"), "tcg", "qemu64").unwrap());
    }
}
