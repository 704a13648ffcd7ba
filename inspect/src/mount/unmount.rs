//! Taking a mount away: as root by a system call, else through the helper.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::error::MountError;
use super::helper;

/// Unmounts; with `lazily` also while files are open: they can be read as long as somebody answers for them.
pub(crate) fn unmount(path: &Path, lazily: bool) -> Result<(), MountError> {
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    let failed = |source: io::Error| MountError::System { doing: "unmount", path: path.to_owned(), source };
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => by_helper(path, lazily).map_err(failed),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Whether an error says that files are open.
pub(crate) fn is_busy(error: &MountError) -> bool {
    matches!(error, MountError::System { source, .. } if source.kind() == io::ErrorKind::ResourceBusy)
}

fn by_helper(path: &Path, lazily: bool) -> io::Result<()> {
    let program = helper::find().ok_or(io::ErrorKind::PermissionDenied)?;
    let mut command = Command::new(program);
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(path).stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if said.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, said))
}
