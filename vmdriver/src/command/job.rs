//! One program of the user's own, and everything that it starts in its process group.
//!
//! The kernel ends the program with this process (see `process`), but not the program's children. So a
//! second process, the *watcher*, sits in the group and reads a pipe whose other end only this process holds:
//! when that closes, be it because the handle is dropped or because this process was killed, the watcher
//! kills its own group. It is not a child of the program, and keeps the group's number from being used again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::error::ProgramError;
use crate::driver::ExitReport;
use crate::limits;
use crate::output::ConsoleFile;
use crate::process::{Launch, Process};

/// Arguments: the folder to work in, the file that is its input, `log` or `answer`, then the program.
/// A stopped group whose parent is gone is sent a hang-up, which the watcher must survive.
const STARTER: &str = r#"
cd "$1" || exit 1
exec 3<&0 <"$2" || exit 1
[ "$3" = answer ] || exec >&2
shift 3
( ( trap '' HUP INT QUIT TERM; exec <&3 3<&- >/dev/null 2>&1; read -r _; kill -KILL 0 ) & )
exec 3<&-
exec "$@"
"#;

/// A program, and how it is to be called.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// All of its environment.
    pub(super) environment: Vec<(String, OsString)>,
    /// Where it works.
    pub(super) folder: PathBuf,
    /// The file that is its standard input.
    pub(super) input: PathBuf,
    /// The folder and the name of the file that takes its standard error.
    pub(super) log: Option<(PathBuf, String)>,
}

/// What a program left that ended well.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) stdout: Vec<u8>,
    /// When it said `paused` and `resumed`.
    pub(super) paused: Option<Instant>,
    pub(super) resumed: Option<Instant>,
}

/// A program that runs. Dropping it ends all of its group.
#[derive(Debug)]
pub(super) struct Job {
    process: Process,
    /// Held, never written to: see above.
    _alive: OwnedFd,
}

impl Call {
    /// Adds to its environment.
    pub(super) fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    fn command_line(&self, answers: bool) -> Vec<OsString> {
        let mut line: Vec<OsString> = ["/bin/sh", "-c", STARTER, "sh"].map(OsString::from).to_vec();
        line.extend([self.folder.clone().into(), self.input.clone().into()]);
        line.push(if answers { "answer" } else { "log" }.into());
        // Nothing of the node's own environment gets through.
        line.extend(["env".into(), "-i".into()]);
        for (name, value) in &self.environment {
            let mut pair = OsString::from(name);
            pair.push("=");
            pair.push(value);
            line.push(pair);
        }
        line.push(self.program.clone().into());
        line.extend(self.arguments.iter().cloned());
        line
    }

    pub(super) fn launch(&self, stdout: OwnedFd, answers: bool) -> io::Result<Job> {
        let console = match &self.log {
            Some((folder, name)) => Some(ConsoleFile::create_named(folder, name)?),
            None => None,
        };
        let (watched, alive) = pipe()?;
        let command_line = self.command_line(answers);
        let process = Process::start(Launch { command_line, stdin: watched, stdout, console })?;
        Ok(Job { process, _alive: alive })
    }

    /// Starts it for as long as it runs; its standard output goes where its standard error goes.
    pub(super) fn start(&self) -> Result<Job, ProgramError> {
        let started = File::open("/dev/null").and_then(|null| self.launch(null.into(), false));
        started.map_err(|source| ProgramError::Start { path: self.program.clone(), source })
    }

    /// Runs it to its end. Whatever happens, nothing of its group is left.
    pub(super) fn run(&self, patience: Duration) -> Result<Finished, ProgramError> {
        let failed = |source| ProgramError::Start { path: self.program.clone(), source };
        let (output, theirs) = pipe().map_err(failed)?;
        let (sender, answer) = mpsc::sync_channel(1);
        let job = self.launch(theirs, true).map_err(failed)?;
        // A thread, so that a program that writes much is not held up. It ends when the last writer does.
        let reader = std::thread::Builder::new().name("command-output".to_owned());
        reader.spawn(move || sender.send(read_answer(File::from(output)))).map_err(failed)?;
        let Some(report) = job.process.wait(patience) else {
            return Err(ProgramError::TimedOut { path: self.program.clone(), patience });
        };
        drop(job);
        // Only something that left the group could keep the output open now.
        let answer = answer.recv_timeout(limits::OUTPUT_END_TIMEOUT).unwrap_or_default();
        let Answer { stdout, paused, resumed } = answer;
        if report.code == Some(0) {
            return Ok(Finished { stdout, paused, resumed });
        }
        Err(ProgramError::Failed { path: self.program.clone(), report: Box::new(report) })
    }
}

impl Job {
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it ended, if it has.
    pub(super) fn exited(&self) -> Option<ExitReport> {
        self.process.exited()
    }

    /// Waits for its end.
    pub(super) fn wait(&self, patience: Duration) -> Option<ExitReport> {
        self.process.wait(patience)
    }

    /// The last of its standard error.
    pub(super) fn tail(&self) -> String {
        self.process.tail()
    }

    /// Lets a group go on that was left standing.
    pub(super) fn go_on(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Ends the group by force.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        self.process.kill()
    }

    /// Signals the group while its first process is there: its number is certainly ours that long.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let group = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        match (self.process.exited(), group) {
            (None, Some(group)) => match kill_process_group(group, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            },
            _ => Ok(()),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::error!(pid = self.pid(), %error, "can't kill a service's processes");
        }
    }
}

/// A pipe whose ends no child gets but on purpose: the one to read from, the one to write to.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

#[derive(Debug, Default)]
struct Answer {
    stdout: Vec<u8>,
    paused: Option<Instant>,
    resumed: Option<Instant>,
}

/// Keeps the beginning of an output, and when it said the words that matter.
fn read_answer(mut output: impl Read) -> Answer {
    let mut answer = Answer::default();
    let mut line = Vec::new();
    let mut buffer = [0_u8; 8 * 1024];
    loop {
        let bytes = match output.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(bytes) => &buffer[..bytes],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return answer,
        };
        let now = Instant::now();
        let room = limits::COMMAND_OUTPUT_BYTES_MAX.saturating_sub(answer.stdout.len());
        answer.stdout.extend_from_slice(&bytes[..bytes.len().min(room)]);
        for byte in bytes {
            if *byte != b'\n' {
                // Longer lines are none of the words.
                if line.len() <= 16 {
                    line.push(*byte);
                }
                continue;
            }
            match line.as_slice() {
                b"paused" => answer.paused = answer.paused.or(Some(now)),
                b"resumed" => answer.resumed = answer.resumed.or(Some(now)),
                _ => {}
            }
            line.clear();
        }
    }
}

/// An environment's value of the node that programs can't do without.
pub(super) fn inherited(name: &str) -> Option<(String, OsString)> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value))
}

/// A call without anything but a program, for tests and for what has no folders.
pub(super) fn bare(program: &Path, folder: &Path) -> Call {
    let environment = ["PATH", "HOME"].into_iter().filter_map(inherited).collect();
    Call {
        program: program.to_owned(),
        arguments: Vec::new(),
        environment,
        folder: folder.to_owned(),
        input: PathBuf::from(OsStr::new("/dev/null")),
        log: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Call {
        let mut call = bare(Path::new("/bin/sh"), Path::new("/"));
        call.arguments = ["-c", script].map(OsString::from).to_vec();
        call
    }

    fn is_there(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
        status.is_ok_and(|text| !text.contains("State:\tZ"))
    }

    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_answer_has_its_words_and_their_times_and_a_bound() {
        let finished =
            shell("echo paused; sleep 0.05; echo resumed; echo more").run(Duration::from_secs(20)).unwrap();
        assert_eq!(finished.stdout, b"paused\nresumed\nmore\n");
        assert!(finished.resumed.unwrap() - finished.paused.unwrap() >= Duration::from_millis(40));
        let much = shell("head -c 3000000 /dev/zero").run(Duration::from_secs(20)).unwrap();
        assert_eq!(much.stdout.len(), limits::COMMAND_OUTPUT_BYTES_MAX);
    }

    #[test]
    fn only_what_is_given_is_in_the_environment_and_standard_input_is_empty() {
        let call = shell("env; cat").with("SUSTAIN_SERVICE", "with space");
        let said = String::from_utf8(call.run(Duration::from_secs(20)).unwrap().stdout).unwrap();
        assert!(said.contains("SUSTAIN_SERVICE=with space\n"), "{said}");
        // Cargo sets plenty of these for a test.
        assert!(!said.contains("CARGO"), "{said}");
    }

    #[test]
    fn a_failure_and_a_program_that_takes_too_long_are_named() {
        let error = shell("echo out of luck >&2; exit 3").run(Duration::from_secs(20)).unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh failed: exit code 3; it said: out of luck");
        let error = shell("sleep 600").run(Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
        let missing = bare(Path::new("/nowhere/start"), Path::new("/")).run(Duration::from_secs(20));
        assert!(matches!(missing, Err(ProgramError::Failed { .. })));
    }

    /// A child that its program leaves behind holds the output open, and would outlive it.
    #[test]
    fn children_end_with_their_program_however_it_ends() {
        let finished = shell("sleep 600 & echo $!").run(Duration::from_secs(20)).unwrap();
        let child = String::from_utf8(finished.stdout).unwrap();
        wait_until("the child of a program that ended is gone", || !is_there(&child));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("child");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let job = shell(&script).start().unwrap();
        wait_until("the child's start", || file.exists());
        let child = std::fs::read_to_string(&file).unwrap();
        assert!(is_there(&child));
        drop(job);
        wait_until("the child of a dropped job is gone", || !is_there(&child));
    }

    #[test]
    fn a_group_that_stands_still_goes_on_when_told_and_dies_when_dropped() {
        let job = shell("sleep 600").start().unwrap();
        let stands = |job: &Job| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", job.pid())).unwrap_or_default();
            status.contains("State:\tT")
        };
        job.signal(Signal::STOP).unwrap();
        wait_until("the stop", || stands(&job));
        job.go_on().unwrap();
        wait_until("the going on", || !stands(&job));
        job.signal(Signal::STOP).unwrap();
        let pid = job.pid().to_string();
        drop(job);
        assert!(!is_there(&pid));
    }
}
