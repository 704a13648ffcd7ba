//! The program that mounts for ordinary users: finding it, and receiving the kernel's channel from it.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::error::MountError;

/// The helper of FUSE 3, and that of FUSE 2, which speaks the same way.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Where it is told which of its open files is the socket for its answer.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// The helper's name, if it is on the path.
pub(crate) fn find() -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    PROGRAMS.into_iter().find(|program| folders.iter().any(|folder| folder.join(program).is_file()))
}

/// Has the helper mount with these options; the kernel's channel.
pub(crate) fn mount(path: &Path, options: &str) -> Result<OwnedFd, MountError> {
    let program = find().ok_or(MountError::NoHelper)?;
    let failed = |source| MountError::System { doing: "mount on", path: path.to_owned(), source };
    let (theirs, ours) = UnixStream::pair().map_err(failed)?;
    // Its standard input is the one open file that it gets without further ado.
    let mut child = Command::new(program)
        .args(["-o", options, "--"])
        .arg(path)
        .env(SOCKET_VARIABLE, "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let received = receive(&ours);
    drop(ours);
    let said = words(&mut child);
    match received {
        Some(channel) => Ok(channel),
        None => Err(MountError::Helper { program, reason: said }),
    }
}

/// Waits for the helper's end; what it said.
fn words(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What can't be read is not told.
        let _ = stderr.read_to_string(&mut said);
    }
    let _ = child.wait();
    said.trim().to_owned()
}

/// The open file that comes over the socket; none if the helper ends without sending one.
fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| recvmsg(socket.as_fd(), &mut into, &mut ancillary, flags)).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    })
}
