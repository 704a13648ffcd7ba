//! The watcher: a small process that takes the mount away when this one was killed.
//!
//! It reads a pipe whose other end only this process has. A line means that all is done; the pipe's end without one
//! means that nobody was left to unmount. It takes away only what answers no more, so that a mount which came
//! after ours stays.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::helper;

/// It lists the folder, which the kernel must ask a living process about: a folder's attributes it would know by itself
/// for a while after the process is dead, and its pipe is closed before its mount.
///
/// Argument: the mount point, then the command that unmounts. Signals of the terminal are for the one that is watched.
const WATCH: &str = r#"
trap '' HUP INT QUIT TERM
cd /
read -r _ && exit 0
ls -A -- "$1" > /dev/null 2>&1 && exit 0
shift
exec "$@"
"#;

/// The watcher of a mount.
#[derive(Debug)]
pub(crate) struct Watcher {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Watcher {
    /// Starts it.
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCH, "sustain-mount-watcher"]).arg(path);
        match helper::find() {
            Some(program) if !rustix::process::geteuid().is_root() => {
                command.args([program, "-u", "-z", "--"]).arg(path)
            }
            _ => command.args(["umount", "-l", "--"]).arg(path),
        };
        // In a group of its own, so that Ctrl-C on a terminal does not reach it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Ends it, since the mount is gone.
    pub(crate) fn dismiss(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // If it is gone there is nobody to tell.
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.process.wait();
    }
}
