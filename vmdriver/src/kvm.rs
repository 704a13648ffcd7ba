//! Whether KVM really works here: found out by running a short loop with it, against the clock.
//!
//! That `/dev/kvm` opens proves little, and that code runs proves not much more: inside some virtual
//! machines KVM emulates a booting guest instruction by instruction, thousands of times too slowly, so
//! that nothing ever boots. So a ROM is run that counts to five million and then has QEMU exit with a code
//! of ours. A processor does that in 2 ms; there it took over 30 s.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use crate::limits;
use crate::memory_file;
use crate::process::{Launch, Process};
use crate::qmp::{Client, QmpError};

/// Least size of a firmware image on a PC.
const ROM_BYTES: usize = 64 * 1024;

/// Where a PC starts: the last 16 bytes of the firmware.
const RESET_OFFSET: usize = ROM_BYTES - 16;

/// The port of QEMU's `isa-debug-exit` device.
const EXIT_PORT: u8 = 0xf4;

/// What the ROM writes to that port. QEMU then exits with twice that and one.
const EXIT_VALUE: u8 = 0x2a;

/// How often the loop runs.
const LOOPS: u32 = 5_000_000;

/// The ROM's code, in 16-bit mode: count down, tell the exit device, halt.
fn program() -> Vec<u8> {
    let mut code = vec![0x66, 0xb9]; // mov ecx, LOOPS
    code.extend(LOOPS.to_le_bytes());
    code.extend([0x66, 0x49]); // dec ecx
    code.extend([0x75, 0xfc]); // jnz back to the dec
    code.extend([0xb0, EXIT_VALUE, 0xe6, EXIT_PORT]); // mov al, EXIT_VALUE; out EXIT_PORT, al
    code.push(0xf4); // hlt
    code
}

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

/// Runs the ROM with an accelerator and sees whether it comes to its end in time.
fn probe(qemu: &Path, accel: &str, cpu: &str) -> io::Result<bool> {
    if accel == "kvm" && File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let (ours, theirs) = UnixStream::pair()?;
    let launch = Launch {
        command_line: command_line(qemu, accel, cpu),
        stdin: firmware()?.into(),
        stdout: theirs.into(),
        console: None,
    };
    let process = Process::start(launch)?;
    // How long QEMU itself takes to start says nothing: the clock runs from here.
    let begun = Client::connect(ours, limits::QEMU_START_TIMEOUT)
        .and_then(|mut qmp| qmp.execute("cont", json!({}), limits::KVM_PROBE_TIMEOUT).map(|_| qmp));
    match &begun {
        Ok(_) | Err(QmpError::Closed) => {}
        Err(error) => return Err(io::Error::other(error.to_string())),
    }
    let report = process.wait(limits::KVM_PROBE_TIMEOUT);
    Ok(report.is_some_and(|report| report.code == Some(i32::from(EXIT_VALUE) * 2 + 1)))
}

fn firmware() -> io::Result<File> {
    let mut rom = vec![0_u8; ROM_BYTES];
    let code = program();
    rom[RESET_OFFSET..RESET_OFFSET + code.len()].copy_from_slice(&code);
    let mut file = memory_file::create("sustain-probe")?;
    file.write_all(&rom)?;
    Ok(file)
}

fn command_line(qemu: &Path, accel: &str, cpu: &str) -> Vec<OsString> {
    let arguments = [
        ["-name", "sustain:probe"].as_slice(),
        &["-nodefaults", "-no-user-config", "-S"],
        &["-display", "none"],
        &["-machine", "q35"],
        &["-accel", accel],
        &["-cpu", cpu],
        &["-m", "16M"],
        &["-bios", "/proc/self/fd/0"],
        &["-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
        &["-chardev", "socket,id=control0,fd=1"],
        &["-mon", "chardev=control0,mode=control"],
    ];
    let program = std::iter::once(qemu.as_os_str().to_owned());
    program.chain(arguments.concat().into_iter().map(OsString::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same ROM under emulation, which works everywhere: so a "no" is KVM's, not the ROM's.
    #[test]
    fn the_program_fits_before_the_end_of_the_rom() {
        assert!(RESET_OFFSET + program().len() <= ROM_BYTES);
    }

    #[test]
    fn the_probe_tells_working_from_not_working() {
        let qemu = Path::new("qemu-system-x86_64");
        assert!(probe(qemu, "tcg", "qemu64").unwrap(), "is QEMU installed? run `make setup`");
        assert!(!probe(qemu, "no-such-accelerator", "qemu64").unwrap());
        assert!(!probe(Path::new("/bin/true"), "tcg", "qemu64").unwrap());
    }
}
