//! A child process that never outlives this one, nor its handle.
//!
//! ```text
//! handle ── thread ── setpriv --pdeathsig KILL ── sh (is the parent still there?) ── QEMU
//! ```
//! The kernel kills QEMU when the *thread* that started it ends, so each process has a thread of its own,
//! which then waits for its end; another one carries its output to the log. `setpriv` and `sh` replace
//! themselves: in the end there is one process, with one id. All that QEMU needs from here comes through
//! its three standard descriptors, so no name in any file system refers to it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};

use crate::driver::ExitReport;
use crate::limits;
use crate::memory_file;
use crate::output::{ConsoleFile, Tail, pump};

/// Between our fork and setpriv's request to be killed this process may already be gone: then the new
/// parent has another id, and nothing is started.
const STARTER: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#;

/// What to start, and its standard descriptors.
pub(crate) struct Launch {
    /// The program and its arguments.
    pub(crate) command_line: Vec<OsString>,
    /// Descriptor 0.
    pub(crate) stdin: OwnedFd,
    /// Descriptor 1.
    pub(crate) stdout: OwnedFd,
    /// Where descriptor 2 is logged.
    pub(crate) console: Option<ConsoleFile>,
}

/// How the process ended, once it has.
#[derive(Debug, Default)]
struct Ending {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

/// A running or ended process. Dropping it kills the process and waits for its end.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// Names the process even after its id is used again.
    descriptor: OwnedFd,
    ending: Arc<Ending>,
    tail: Tail,
    thread: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the process.
    ///
    /// # Errors
    /// If no thread or process can be had, or `setpriv` is missing.
    pub(crate) fn start(launch: Launch) -> io::Result<Self> {
        let ending = Arc::new(Ending::default());
        let tail = Tail::default();
        let (started, result) = mpsc::sync_channel(1);
        let supervisor =
            Supervisor { ending: Arc::clone(&ending), tail: tail.clone(), console: launch.console };
        let command_line = launch.command_line;
        let (stdin, stdout) = (launch.stdin, launch.stdout);
        let thread = std::thread::Builder::new().name("vm-supervisor".into()).spawn(move || {
            let spawned = spawn(&command_line, stdin, stdout);
            supervisor.run(spawned, &started);
        })?;
        let (pid, descriptor) = result.recv().map_err(|_| io::Error::other("the supervisor ended"))??;
        Ok(Self { pid, descriptor, ending, tail, thread: Some(thread) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&self) -> Option<ExitReport> {
        let status = *self.ending.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.map(|status| self.report(status))
    }

    /// Waits for its end.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<ExitReport> {
        let deadline = Instant::now() + timeout;
        let mut status = self.ending.status.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(status) = *status {
                return Some(self.report(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.ending.changed.wait_timeout(status, left);
            status = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends it by force; without effect if it has ended.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The last that it said.
    pub(crate) fn tail(&self) -> String {
        self.tail.text()
    }

    fn report(&self, status: ExitStatus) -> ExitReport {
        ExitReport { code: status.code(), signal: status.signal(), output_tail: self.tail() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            // Waiting for it could last for ever.
            tracing::error!(pid = self.pid, %error, "can't kill a VM's process");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(pid = self.pid, "the supervisor of a VM's process failed");
        }
    }
}

fn spawn(command_line: &[OsString], stdin: OwnedFd, stdout: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "/bin/sh", "-c", STARTER, "sh"]);
    command.arg(std::process::id().to_string()).args(command_line);
    // A group of its own: Ctrl-C at a terminal is for the node, which then ends its VMs in its own order.
    command.process_group(0);
    command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "setpriv (of util-linux) is not installed"),
        _ => error,
    })
}

/// The half that runs on the thread.
struct Supervisor {
    ending: Arc<Ending>,
    tail: Tail,
    console: Option<ConsoleFile>,
}

type Started = mpsc::SyncSender<io::Result<(u32, OwnedFd)>>;

impl Supervisor {
    fn run(self, spawned: io::Result<Child>, started: &Started) {
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let descriptor = match descriptor_of(&child) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                // Not reaped yet, so the id is still this child's.
                let _ = child.kill();
                let _ = child.wait();
                let _ = started.send(Err(error));
                return;
            }
        };
        // If nobody waits for the answer any more, the handle's drop never comes: nothing to supervise.
        if started.send(Ok((child.id(), descriptor))).is_err() {
            let _ = child.kill();
        }
        let pumped = child.stderr.take().map(|output| pump_aside(output, self.console, &self.tail));
        let ended = end_of(&mut child);
        if let Some(pumped) = pumped {
            // Its last words. A child that it left behind may hold the pipe open for ever.
            let _ = pumped.done.recv_timeout(limits::OUTPUT_END_TIMEOUT);
        }
        match ended {
            Ok(status) => {
                *self.ending.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                self.ending.changed.notify_all();
            }
            Err(error) => tracing::error!(pid = child.id(), %error, "can't wait for a VM's process"),
        }
    }
}

/// Waits for its end, and kills what it left behind in its group: a script around QEMU may not have waited for it.
fn end_of(child: &mut Child) -> io::Result<ExitStatus> {
    let group = pid_of(child)?;
    let only_look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(Errno::INTR) = waitid(WaitId::Pid(group), only_look) {}
    // Not reaped yet, so the group's id is still its own.
    if let Err(error) = kill_process_group(group, Signal::KILL) {
        tracing::debug!(pid = child.id(), %error, "nothing of its group was left");
    }
    child.wait()
}

/// The copying of an output. It ends with the output, or with this.
struct Pumping {
    /// Closed at its end.
    done: mpsc::Receiver<()>,
    _stop: Option<OwnedFd>,
}

/// An output that also ends when the other end of a pipe is closed: whoever keeps it open for ever is left alone.
struct UntilStopped {
    output: ChildStderr,
    stopped: OwnedFd,
}

impl Read for UntilStopped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut either =
            [PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(&self.output, PollFlags::IN)];
        poll(&mut either, None)?;
        if either[0].revents().is_empty() { self.output.read(buffer) } else { Ok(0) }
    }
}

/// Copies an output on a thread of its own.
fn pump_aside(output: ChildStderr, console: Option<ConsoleFile>, tail: &Tail) -> Pumping {
    let (sender, receiver) = mpsc::sync_channel(1);
    let tail = tail.clone();
    let (stopped, stop) = match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        Ok(ends) => ends,
        Err(error) => {
            tracing::warn!(%error, "nobody reads a VM's output");
            return Pumping { done: receiver, _stop: None };
        }
    };
    let output = UntilStopped { output, stopped };
    let thread = std::thread::Builder::new().name("vm-output".into());
    let pumping = move || {
        pump(output, console, &tail);
        drop(sender);
    };
    if let Err(error) = thread.spawn(pumping) {
        // The pipe is closed with the closure: whoever writes to it is told.
        tracing::warn!(%error, "nobody reads a VM's output");
    }
    Pumping { done: receiver, _stop: Some(stop) }
}

fn descriptor_of(child: &Child) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid_of(child)?, PidfdFlags::empty())?)
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("the system gave an impossible process id"))
}

/// Runs a program to its end and returns what it wrote to its standard output, at most
/// [`OUTPUT_BYTES_MAX`].
///
/// # Errors
/// If it can't be started, takes too long, or fails.
pub(crate) fn run_for_output(command_line: &[OsString], timeout: Duration) -> io::Result<String> {
    run_with_input(command_line, File::open("/dev/null")?, timeout)
}

/// The same with another standard input.
///
/// # Errors
/// As for [`run_for_output`].
pub(crate) fn run_with_input(
    command_line: &[OsString],
    stdin: File,
    timeout: Duration,
) -> io::Result<String> {
    let stdout = memory_file::create("sustain-output")?;
    let launch = Launch {
        command_line: command_line.to_vec(),
        stdin: stdin.into(),
        stdout: stdout.try_clone()?.into(),
        console: None,
    };
    let process = Process::start(launch)?;
    match process.wait(timeout) {
        Some(report) if report.code == Some(0) => {}
        Some(report) => return Err(io::Error::other(report.to_string())),
        None => return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long")),
    }
    let mut bytes = vec![0; OUTPUT_BYTES_MAX];
    let count = stdout.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Most bytes that are read of a program's output.
const OUTPUT_BYTES_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Process {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let command_line = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        Process::start(Launch { command_line, stdin: null(), stdout: null(), console: None }).unwrap()
    }

    #[test]
    fn an_ending_is_seen_with_its_code_and_last_words() {
        let process = start("echo out of luck >&2; exit 7");
        let report = process.wait(Duration::from_secs(10)).unwrap();
        assert_eq!((report.code, report.signal), (Some(7), None));
        assert_eq!(report.to_string(), "exit code 7; it said: out of luck");
        assert_eq!(process.exited(), Some(report));
        process.kill().unwrap();
    }

    #[test]
    fn dropping_the_handle_ends_the_process() {
        let process = start("exec sleep 600");
        assert_eq!(process.wait(Duration::from_millis(20)), None);
        let folder = format!("/proc/{}", process.pid());
        assert!(std::path::Path::new(&folder).exists());
        drop(process);
        assert!(!std::path::Path::new(&folder).exists(), "ended, and waited for");
    }

    #[test]
    fn what_a_process_left_behind_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let process = start(&format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display()));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !file.exists() {
            assert!(Instant::now() < deadline, "the script did not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        let line = format!("/proc/{}/cmdline", std::fs::read_to_string(&file).unwrap().trim());
        let sleeps = || std::fs::read_to_string(&line).is_ok_and(|line| line.contains("sleep"));
        assert!(sleeps());
        drop(process);
        while sleeps() {
            assert!(Instant::now() < deadline, "it was left behind");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Each of a service's snapshots by such a program left a thread behind.
    #[test]
    fn an_output_that_something_keeps_open_is_let_go() {
        let mut child = Command::new("sleep").arg("600").stderr(Stdio::piped()).spawn().unwrap();
        let pumping = pump_aside(child.stderr.take().unwrap(), None, &Tail::default());
        let Pumping { done, _stop: stop } = pumping;
        assert_eq!(done.recv_timeout(Duration::from_millis(20)), Err(mpsc::RecvTimeoutError::Timeout));
        drop(stop);
        assert_eq!(done.recv_timeout(Duration::from_secs(20)), Err(mpsc::RecvTimeoutError::Disconnected));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_of_another_parent_is_not_started() {
        let output =
            Command::new("/bin/sh").args(["-c", STARTER, "sh", "1", "echo", "started"]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), b"".as_slice()));
        let own = std::process::id().to_string();
        let output =
            Command::new("/bin/sh").args(["-c", STARTER, "sh", &own, "echo", "started"]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"started\n".as_slice()));
    }
}
