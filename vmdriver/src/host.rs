//! What the host has: memory, a QEMU, its version.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cgroup;
use crate::error::CheckError;
use crate::limits;
use crate::process::run_for_output;
use crate::spec::VmSpec;

/// The program that is looked for on the path.
const QEMU_DEFAULT: &str = "qemu-system-x86_64";

/// The oldest QEMU that this was measured with.
const QEMU_OLDEST: (u64, u64) = (7, 2);
pub(crate) const QEMU_OLDEST_TEXT: &str = "7.2";

/// The QEMU that the spec asks for, as a path that leads to a program.
pub(crate) fn find_qemu(spec: &VmSpec) -> Result<PathBuf, CheckError> {
    let wanted = spec.qemu.clone().unwrap_or_else(|| QEMU_DEFAULT.into());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = find_program(&wanted, &path).map_err(|source| CheckError::Qemu { path: wanted, source })?;
    // The kernel hides the descriptors of such a process from itself: guest memory is handed over as one.
    fs::File::open(&found).map_err(|error| {
        let source =
            io::Error::new(error.kind(), "this user may run it, but has to be allowed to read it, too");
        CheckError::Qemu { path: found.clone(), source }
    })?;
    Ok(found)
}

/// Looks a bare name up in the folders of a search path; anything else has to be a path itself.
fn find_program(wanted: &Path, search_path: &OsStr) -> io::Result<PathBuf> {
    let is_bare = wanted.components().count() == 1 && !wanted.has_root();
    let candidates: Vec<PathBuf> = if is_bare {
        std::env::split_paths(search_path).map(|folder| folder.join(wanted)).collect()
    } else {
        vec![wanted.to_owned()]
    };
    candidates.into_iter().find(|candidate| is_program(candidate)).ok_or_else(|| {
        let place = if is_bare { "no such program on the path" } else { "no such program" };
        io::Error::new(io::ErrorKind::NotFound, place)
    })
}

pub(crate) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whether a version is one that this driver knows how to use.
pub(crate) fn is_recent(major: u64, minor: u64) -> bool {
    (major, minor) >= QEMU_OLDEST
}

/// Asks QEMU for its version and checks it.
pub(crate) fn qemu_version(path: &Path) -> Result<String, CheckError> {
    let command_line = [path.as_os_str().to_owned(), OsString::from("--version")];
    let failed = |source| CheckError::Qemu { path: path.to_owned(), source };
    let output = run_for_output(&command_line, limits::VERSION_TIMEOUT).map_err(failed)?;
    let first = output.lines().next().unwrap_or_default().to_owned();
    match parse_version(&first) {
        Some((major, minor)) if is_recent(major, minor) => Ok(first),
        _ => Err(CheckError::QemuVersion { path: path.to_owned(), found: first, oldest: QEMU_OLDEST_TEXT }),
    }
}

/// `QEMU emulator version 7.2.22 (Debian …)` → (7, 2).
fn parse_version(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("QEMU emulator version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Checks that the files that the guest boots from can be opened.
/// The image of the disk is needed for a boot only: a restore has the disk from the snapshot.
pub(crate) fn check_guest_files(spec: &VmSpec, boots: bool) -> Result<(), CheckError> {
    let disk = spec.disk.as_ref().filter(|_| boots).map(|disk| &disk.image);
    let files = [("kernel", spec.kernel.as_ref()), ("initramfs", spec.initramfs.as_ref()), ("disk", disk)];
    for (what, path) in files.into_iter().filter_map(|(what, path)| Some((what, path?))) {
        let opened = fs::File::open(path).and_then(|file| file.metadata());
        let checked = opened.and_then(|metadata| {
            if metadata.is_file() { Ok(()) } else { Err(io::Error::other("this is no plain file")) }
        });
        checked.map_err(|source| CheckError::GuestFile { what, path: path.clone(), source })?;
    }
    Ok(())
}

/// Checks that the host has the memory for the VM, and returns how much it has left. Guest memory is a
/// shared file: where there is none left for it, the guest is not refused a page but killed. Snapshots need
/// `copy_bytes` on top.
pub(crate) fn check_memory(spec: &VmSpec, copy_bytes: u64) -> Result<u64, CheckError> {
    let available_bytes = memory_available()?;
    let needed_bytes =
        spec.memory_bytes.saturating_add(limits::QEMU_OVERHEAD_BYTES).saturating_add(copy_bytes);
    if available_bytes < needed_bytes {
        return Err(CheckError::Memory { service: spec.service.clone(), needed_bytes, available_bytes });
    }
    Ok(available_bytes)
}

/// Bytes of memory that the host has left for this process and what it starts.
pub(crate) fn memory_available() -> Result<u64, CheckError> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|source| CheckError::HostMemory { source })?;
    let on_host = parse_available(&text).ok_or_else(|| {
        let source = io::Error::new(io::ErrorKind::InvalidData, "there is no line MemAvailable");
        CheckError::HostMemory { source }
    })?;
    Ok(cgroup::memory_left().map_or(on_host, |in_group| in_group.min(on_host)))
}

fn parse_available(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use sustain_proto::ServiceName;

    use super::*;

    #[test]
    fn versions_are_read_and_others_refused() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.2 (Debian)"), Some((10, 0)));
        for other in ["", "QEMU emulator version ", "QEMU emulator version x.y", "bash, version 5.2"] {
            assert_eq!(parse_version(other), None, "{other:?}");
        }
        assert!(!is_recent(7, 1) && is_recent(7, 2) && is_recent(10, 0));
        assert_eq!(QEMU_OLDEST_TEXT, format!("{}.{}", QEMU_OLDEST.0, QEMU_OLDEST.1));
    }

    #[test]
    fn free_memory_is_read_from_its_line() {
        let text = "MemTotal:       24683692 kB\nMemFree:        1 kB\nMemAvailable:   24345 kB\n";
        assert_eq!(parse_available(text), Some(24_345 * 1_024));
        for other in ["", "MemAvailable: 12", "MemAvailable: x kB", "MemAvailable: 99999999999999999999 kB"] {
            assert_eq!(parse_available(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_vm_larger_than_the_host_is_refused() {
        let mut spec = VmSpec::new(ServiceName::new("mail").unwrap(), "/nowhere/vmlinuz");
        assert!(check_memory(&spec, 0).is_ok(), "the machine that tests has 256 MiB to spare");
        spec.memory_bytes = 1 << 50;
        let error = check_memory(&spec, 0).unwrap_err();
        assert!(
            matches!(error, CheckError::Memory { needed_bytes, .. } if needed_bytes > 1 << 50),
            "{error}"
        );
        assert_eq!(error.kind(), crate::ErrorKind::NoMemory);
    }

    #[test]
    fn programs_are_found_on_the_path_or_by_it() {
        let path = OsStr::new("/nowhere:/bin:/usr/bin");
        assert_eq!(find_program(Path::new("sh"), path).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find_program(Path::new("/bin/sh"), OsStr::new("")).unwrap(), Path::new("/bin/sh"));
        for missing in ["no-such-program", "/nowhere/sh", "/bin", "/etc/passwd", ""] {
            assert!(find_program(Path::new(missing), path).is_err(), "{missing:?}");
        }
    }

    #[test]
    fn missing_files_and_programs_are_named() {
        let mut spec = VmSpec::new(ServiceName::new("mail").unwrap(), "/nowhere/vmlinuz");
        assert!(check_guest_files(&spec, true).unwrap_err().to_string().contains("kernel /nowhere/vmlinuz"));
        spec.kernel = Some("/".into());
        assert!(check_guest_files(&spec, true).is_err(), "a folder is no kernel");
        let error = qemu_version(Path::new("/nowhere/qemu")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/qemu"), "{error}");
        let error = qemu_version(Path::new("/bin/true")).unwrap_err();
        assert!(matches!(error, CheckError::QemuVersion { .. }), "{error}");
    }
}
