//! The driver's side of the library that is preloaded into QEMU (the crate in `preload/`).
//!
//! The library is part of this binary. QEMU's dynamic loader reads it from a memory file of this process, by its
//! name in `/proc`, so that no folder is needed that programs may be loaded from. It reports over a Unix socket in
//! the abstract namespace, whose names are short, leave nothing behind, and are open to everybody: who connects is
//! asked for its process id.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Once;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use rustix::process::getpgid;

use self::message::{REPORT_BYTES, Report, Step, VARIABLE};
use crate::limits::{PRELOAD_REPORT_TIMEOUT, PRELOAD_STRANGERS_MAX};
use crate::memory_file;

#[path = "../../../preload/src/message.rs"]
mod message;

/// The library, compiled by `build.rs`.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libsustain_preload.so"));

/// What keeps writes from being tracked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    /// No library or socket could be made.
    #[error("the library for it can't be handed to QEMU: {source}")]
    Announce {
        /// Why.
        source: io::Error,
    },
    /// Nobody connected.
    #[error("QEMU did not load the library for it")]
    NotLoaded,
    /// It ended before it could be asked.
    #[error("QEMU can't be tried: {reason}")]
    Trial {
        /// Why, with its last words.
        reason: String,
    },
    /// It is not the process that was started.
    #[error("QEMU is a child of the program that was started for it")]
    Child,
    /// No report, or none that can be understood.
    #[error("the library in QEMU sent no report: {source}")]
    NoReport {
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Refused {
        /// Which.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The process's page map.
    #[error("the written pages can't be asked for: {source}")]
    Look {
        /// Why.
        source: io::Error,
    },
}

impl Obstacle {
    /// What to set so that it goes away.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Announce { .. } | Self::NotLoaded | Self::NoReport { .. } => {
                "QEMU has to be dynamically linked, with no more rights than this program"
            }
            Self::Trial { .. } => {
                "what QEMU complains about has to be put right: it would keep a VM from starting, too"
            }
            Self::Child => "a script around QEMU has to end in `exec`, or QEMU would outlive a killed node",
            Self::Refused { step: OPENING, .. } => {
                "a container's seccomp profile has to allow userfaultfd, or this user has to be allowed to open \
                 /dev/userfaultfd"
            }
            Self::Refused { .. } => "Linux 6.7 or newer is needed",
            Self::Look { source } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "/proc/PID/pagemap of a child has to be readable: the same user, no fewer capabilities than QEMU"
                }
                _ => "Linux 6.7 or newer is needed",
            },
        }
    }

    /// Says it, the first time in this process.
    pub(crate) fn warn_once(&self) {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            tracing::warn!(
                reason = %self,
                hint = self.hint(),
                "writes to guest memory can't be tracked here: each snapshot compares all memory, which \
                 pauses the guest for longer and takes as much memory again"
            );
        });
    }
}

const OPENING: &str = "userfaultfd is not to be had";

fn refused(step: Step, errno: i32) -> Obstacle {
    let step = match step {
        Step::Open => OPENING,
        Step::Features => "userfaultfd can't protect asynchronously",
        Step::Register => "userfaultfd does not take the guest's memory",
        Step::Protect | Step::Done => "userfaultfd can't protect the guest's memory",
    };
    Obstacle::Refused { step, source: io::Error::from_raw_os_error(errno) }
}

/// A library that waits to be loaded, and a socket that waits for its report.
#[derive(Debug)]
pub(crate) struct Announcement {
    listener: UnixListener,
    library: File,
    text: OsString,
    bytes: u64,
}

/// What the library did.
#[derive(Debug)]
pub(crate) struct Protection {
    /// Keeps the protection up.
    pub(crate) descriptor: OwnedFd,
    /// Where QEMU has the memory.
    pub(crate) address: u64,
    /// Its size.
    pub(crate) bytes: u64,
}

impl Announcement {
    /// Announces this memory file to the QEMU that will be started.
    pub(crate) fn new(memory: &File) -> Result<Self, Obstacle> {
        Self::try_new(memory).map_err(|source| Obstacle::Announce { source })
    }

    fn try_new(memory: &File) -> io::Result<Self> {
        let mut library = memory_file::create("sustain-preload.so")?;
        library.write_all(LIBRARY)?;
        // A name that nobody can guess, so that nobody has it already; the process id is what is relied on.
        let number = RandomState::new().build_hasher().finish();
        let name = format!("sustain-{}-{number:016x}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        listener.set_nonblocking(true)?;
        let metadata = memory.metadata()?;
        let (bytes, device, inode) = (metadata.len(), metadata.dev(), metadata.ino());
        Ok(Self { listener, library, text: format!("{bytes}:{device}:{inode}:{name}").into(), bytes })
    }

    /// The command line that loads the library into the program, and into nothing before it.
    pub(crate) fn wrap(&self, command_line: Vec<OsString>) -> Vec<OsString> {
        let mut library =
            OsString::from(format!("/proc/{}/fd/{}", std::process::id(), self.library.as_raw_fd()));
        if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
            library.push(":");
            library.push(others);
        }
        let mut line: Vec<OsString> = vec!["env".into()];
        for (name, value) in [("LD_PRELOAD", &library), (VARIABLE, &self.text)] {
            let mut setting = OsString::from(name);
            setting.push("=");
            setting.push(value);
            line.push(setting);
        }
        line.extend(command_line);
        line
    }

    /// Takes the report of this process, which has mapped its memory by now.
    pub(crate) fn receive(self, pid: u32) -> Result<Protection, Obstacle> {
        let no_report = |source| Obstacle::NoReport { source };
        let connection = self.accept(pid)?;
        connection.set_read_timeout(Some(PRELOAD_REPORT_TIMEOUT)).map_err(no_report)?;
        let (report, descriptor) = receive_report(&connection).map_err(no_report)?;
        match (report.step, descriptor) {
            (Step::Done, Some(descriptor)) if report.bytes == self.bytes && report.address != 0 => {
                Ok(Protection { descriptor, address: report.address, bytes: report.bytes })
            }
            (Step::Done, _) => Err(no_report(io::ErrorKind::InvalidData.into())),
            (step, _) => Err(refused(step, report.errno)),
        }
    }

    /// The process has connected when it mapped its memory, or never will.
    fn accept(&self, pid: u32) -> Result<UnixStream, Obstacle> {
        let mut obstacle = Obstacle::NotLoaded;
        for _ in 0..PRELOAD_STRANGERS_MAX {
            let Ok((connection, _)) = self.listener.accept() else { break };
            let Ok(peer) = sockopt::socket_peercred(&connection) else { continue };
            if peer.pid.as_raw_nonzero().get().unsigned_abs() == pid {
                connection.set_nonblocking(false).map_err(|source| Obstacle::NoReport { source })?;
                return Ok(connection);
            }
            // It was given a group of its own, which its children are in as well.
            if getpgid(Some(peer.pid)).is_ok_and(|group| group.as_raw_nonzero().get().unsigned_abs() == pid) {
                obstacle = Obstacle::Child;
            }
        }
        Err(obstacle)
    }
}

fn receive_report(connection: &UnixStream) -> io::Result<(Report, Option<OwnedFd>)> {
    let mut bytes = [0; REPORT_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(connection, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    // It is sent as one message, and short enough that no kernel splits it.
    let report = Report::from_bytes(&bytes).filter(|_| received.bytes == REPORT_BYTES);
    let report = report.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok((report, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_PERMITTED: i32 = 1;
    const INVALID: i32 = 22;

    #[test]
    fn what_stands_in_the_way_is_told_with_what_to_set() {
        let cases = [
            (
                refused(Step::Open, NOT_PERMITTED),
                "not to be had: Operation not permitted",
                "/dev/userfaultfd",
            ),
            (refused(Step::Features, INVALID), "can't protect asynchronously", "Linux 6.7"),
            (Obstacle::Look { source: io::ErrorKind::PermissionDenied.into() }, "asked for", "the same user"),
            (Obstacle::Look { source: io::Error::from_raw_os_error(25) }, "asked for", "Linux 6.7"),
            (Obstacle::NotLoaded, "did not load", "dynamically linked"),
            (Obstacle::Child, "is a child", "`exec`"),
        ];
        for (obstacle, reason, hint) in cases {
            assert!(obstacle.to_string().contains(reason), "{obstacle}");
            assert!(obstacle.hint().contains(hint), "{obstacle}: {}", obstacle.hint());
        }
    }
}
