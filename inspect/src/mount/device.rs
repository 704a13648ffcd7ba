//! The kernel's channel of a mount: got by mounting as root, or through the helper.
//!
//! This is not left to the library that speaks over it, because its way of unmounting may take away what was mounted
//! below ours when ours is gone already.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::error::MountError;
use super::helper;
use super::point::SOURCE;

const DEVICE: &str = "/dev/fuse";

/// Mounts on a folder; the channel over which the kernel asks.
pub(crate) fn mount(path: &Path, allow_other: bool) -> Result<OwnedFd, MountError> {
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoDevice);
    }
    let others = if allow_other { ",allow_other" } else { "" };
    match as_root(path, others) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => helper::mount(
            path,
            &format!("ro,nosuid,nodev,noatime,fsname={SOURCE},subtype={SOURCE},default_permissions{others}"),
        ),
        other => {
            other.map_err(|source| MountError::System { doing: "mount on", path: path.to_owned(), source })
        }
    }
}

fn as_root(path: &Path, others: &str) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{others}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let options = CString::new(options)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    match rustix::mount::mount(SOURCE, path, "fuse.sustain", flags, Some(options.as_c_str())) {
        Ok(()) => Ok(device.into()),
        // Some containers answer so to what they don't let through.
        Err(Errno::PERM | Errno::ACCESS) => Err(io::ErrorKind::PermissionDenied.into()),
        Err(errno) => Err(errno.into()),
    }
}
