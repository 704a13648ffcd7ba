//! Why a store can't be mounted, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a store can't be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point does not exist, is no folder, or can't be looked at.
    #[error("{} is no folder that can be mounted on", path.display())]
    NoFolder {
        /// The mount point.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is something in the mount point.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
    },
    /// A store is mounted there.
    #[error("a store is mounted on {} already", path.display())]
    Mounted {
        /// The mount point.
        path: PathBuf,
    },
    /// A file system is mounted there whose process is gone, and it is none of ours.
    #[error("{} is the mount point of a file system that answers no more", path.display())]
    Dead {
        /// The mount point.
        path: PathBuf,
    },
    /// The kernel's FUSE device is missing.
    #[error("there is no /dev/fuse on this machine")]
    NoDevice,
    /// The program that mounts for ordinary users is missing.
    #[error("neither this user's rights nor a fusermount3 program allow to mount")]
    NoHelper,
    /// The helper says no.
    #[error("{program} refuses to mount: {reason}")]
    Helper {
        /// The program.
        program: &'static str,
        /// Its words.
        reason: String,
    },
    /// The system says no.
    #[error("could not {doing} {}", path.display())]
    System {
        /// What was being done.
        doing: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl MountError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoFolder { path, .. } => format!("make an empty folder first: mkdir {}", path.display()),
            Self::NotEmpty { .. } => "name an empty folder: a mount hides what is in it".to_owned(),
            Self::Mounted { path } => format!("use it there, or unmount it first: umount {}", path.display()),
            Self::Dead { path } => format!("take it away first: umount -l {}", path.display()),
            Self::NoDevice => "load the kernel's module (modprobe fuse); a container is started with \
                 --device /dev/fuse --cap-add SYS_ADMIN"
                .to_owned(),
            Self::NoHelper => "install it (apt-get install fuse3), or mount as root".to_owned(),
            Self::Helper { reason, .. } if reason.contains("user_allow_other") => {
                "root allows --allow-other with a line user_allow_other in /etc/fuse.conf".to_owned()
            }
            Self::Helper { .. } | Self::System { .. } => {
                "mounting takes root's rights or fusermount3, and in a container --cap-add SYS_ADMIN"
                    .to_owned()
            }
        })
    }
}
