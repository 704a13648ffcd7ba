//! What a QEMU program comes with: its firmware, and whether it can fence itself in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::command_line::SANDBOX;
use crate::error::CheckError;
use crate::limits;
use crate::process::run_for_output;

/// SeaBIOS, in the size that all machine types since QEMU 1.7 take.
const FIRMWARE: &str = "bios-256k.bin";

/// What one QEMU program has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QemuFeatures {
    /// The PC firmware.
    pub(crate) firmware: PathBuf,
    /// Whether it was built with its seccomp sandbox.
    pub(crate) sandbox: bool,
}

/// What was found out, for as long as this process lives.
static FOUND: Mutex<BTreeMap<PathBuf, QemuFeatures>> = Mutex::new(BTreeMap::new());

/// What this QEMU has. Asks once: it takes some 50 ms.
pub(crate) fn of(qemu: &Path) -> Result<QemuFeatures, CheckError> {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = found.get(qemu) {
        return Ok(known.clone());
    }
    let failed = |source| CheckError::Qemu { path: qemu.to_owned(), source };
    let features = find(qemu).map_err(failed)?;
    if !features.sandbox {
        tracing::warn!(qemu = %qemu.display(), "this QEMU has no seccomp sandbox: VMs run without it");
    }
    found.insert(qemu.to_owned(), features.clone());
    Ok(features)
}

fn find(qemu: &Path) -> io::Result<QemuFeatures> {
    let list = |options: &[&str]| {
        let mut line = vec![qemu.as_os_str().to_owned()];
        line.extend(options.iter().chain(&["-L", "help"]).map(OsString::from));
        run_for_output(&line, limits::VERSION_TIMEOUT)
    };
    let (folders, sandbox) = match list(&["-sandbox", SANDBOX]) {
        Ok(folders) => (folders, true),
        Err(_) => (list(&[])?, false),
    };
    let firmware = folders.lines().map(|folder| Path::new(folder).join(FIRMWARE)).find(|path| path.is_file());
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("its firmware {FIRMWARE} is missing"));
    Ok(QemuFeatures { firmware: firmware.ok_or_else(missing)?, sandbox })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_qemu_has_a_firmware_and_other_programs_have_none() {
        let found = find(Path::new("qemu-system-x86_64")).expect("is QEMU installed? run `make setup`");
        assert_eq!(found.firmware.metadata().unwrap().len(), 256 << 10);
        assert!(find(Path::new("/bin/true")).unwrap_err().to_string().contains(FIRMWARE));
    }
}
