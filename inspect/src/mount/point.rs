//! Mount points: looking at the folder before, and finding out what is mounted where.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::MountError;
use super::unmount::unmount;

/// What the kernel calls the source of our mounts, which is how they are told from others.
pub(crate) const SOURCE: &str = "sustain";

/// Makes sure that a folder can be mounted on: it is there, is empty, and nothing of ours is mounted there. A mount of
/// ours whose process was killed is taken away. The folder's whole path.
pub(crate) fn prepare(folder: &Path) -> Result<PathBuf, MountError> {
    let path = whole(folder).map_err(|source| MountError::NoFolder { path: folder.to_owned(), source })?;
    let found = match look_at(&path) {
        Err(error) if is_dead(&error) => {
            if source_at(&path).as_deref() != Some(SOURCE) {
                return Err(MountError::Dead { path });
            }
            tracing::warn!(folder = %path.display(), "taking away a mount whose process was killed");
            unmount(&path, true)?;
            look_at(&path)
        }
        other => other,
    };
    let found = found.map_err(|source| MountError::NoFolder { path: path.clone(), source })?;
    if !found.is_dir() {
        return Err(MountError::NoFolder { path, source: io::ErrorKind::NotADirectory.into() });
    }
    if source_at(&path).as_deref() == Some(SOURCE) {
        return Err(MountError::Mounted { path });
    }
    let mut entries =
        fs::read_dir(&path).map_err(|source| MountError::NoFolder { path: path.clone(), source })?;
    if entries.next().is_some() {
        return Err(MountError::NotEmpty { path });
    }
    Ok(path)
}

/// What is at a path. A mount's process is asked, even where the kernel remembers what it said.
fn look_at(path: &Path) -> io::Result<fs::Metadata> {
    rustix::fs::statfs(path)?;
    fs::metadata(path)
}

/// A folder's whole path without links. Its last part can't be looked at where a mount is dead.
fn whole(folder: &Path) -> io::Result<PathBuf> {
    match folder.canonicalize() {
        Err(error) if is_dead(&error) => {
            let path = std::path::absolute(folder)?;
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// Whether an error is that of a mount whose process is gone.
fn is_dead(error: &io::Error) -> bool {
    let codes = [Errno::NOTCONN, Errno::CONNABORTED].map(|errno| errno.raw_os_error());
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// The source of what is mounted at exactly this path; none if nothing is.
pub(crate) fn source_at(path: &Path) -> Option<String> {
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    source_in(&mounts, path)
}

/// The same, by the kernel's list of mounts. Of several at one path the last one hides the others.
fn source_in(mounts: &[u8], path: &Path) -> Option<String> {
    let mut found = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        if fields.nth(4).is_none_or(|at| unescape(at) != path.as_os_str().as_bytes()) {
            continue;
        }
        // After a lone dash: the type, then the source.
        let source = fields.skip_while(|field| *field != b"-").nth(2);
        found = source.map(|source| String::from_utf8_lossy(&unescape(source)).into_owned());
    }
    found
}

/// Blanks, tabs, line ends and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) = (*first, tail) {
            plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_path_counts_and_blanks_are_understood() {
        let mounts = b"22 1 0:21 / /mnt/a\\040b rw,nosuid shared:7 - tmpfs none rw\n\
            23 22 0:40 / /mnt/a\\040b ro,nosuid,nodev - fuse.sustain sustain ro,user_id=0\n\
            24 1 0:41 / /mnt rw - ext4 /dev/sda1 rw\n\
            25 1 0:42 / /mnt/x rw - fuse\n broken\n";
        let source = |path: &str| source_in(mounts, Path::new(path));
        assert_eq!(source("/mnt/a b").as_deref(), Some(SOURCE));
        assert_eq!(source("/mnt").as_deref(), Some("/dev/sda1"));
        assert_eq!([source("/mnt/x"), source("/mnt/a"), source("")], [None, None, None]);
    }

    #[test]
    fn only_an_empty_folder_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(prepare(path).unwrap(), path.canonicalize().unwrap());
        assert!(matches!(prepare(&path.join("absent")), Err(MountError::NoFolder { .. })));
        fs::write(path.join("file"), b"x").unwrap();
        assert!(matches!(prepare(&path.join("file")), Err(MountError::NoFolder { .. })));
        assert!(matches!(prepare(path), Err(MountError::NotEmpty { .. })));
    }
}
