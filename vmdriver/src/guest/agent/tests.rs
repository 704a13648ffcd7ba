//! The client against the real qemu-ga, run as a process of this machine instead of in a guest.

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::{Agent, AgentError, Connection, GuestFile};
use crate::guest::command::{GuestAgent, GuestCommand, GuestError};
use crate::limits::AGENT_PART_BYTES;

const PATIENCE: Duration = Duration::from_secs(20);

/// A qemu-ga; ended when dropped.
struct RealAgent {
    process: Child,
    folder: TempDir,
}

impl RealAgent {
    fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { process: spawn(folder.path(), settings), folder }
    }

    /// Another process, in the same place, that knows nothing of what the first did.
    fn restart(&mut self) {
        self.end();
        fs::remove_file(self.folder.path().join("socket")).unwrap();
        self.process = spawn(self.folder.path(), &[]);
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn connect(&mut self) -> UnixStream {
        let started = Instant::now();
        loop {
            match UnixStream::connect(self.folder.path().join("socket")) {
                Ok(stream) => return stream,
                Err(error) => assert!(started.elapsed() < PATIENCE, "qemu-ga does not listen: {error}"),
            }
            assert_eq!(self.process.try_wait().unwrap(), None, "qemu-ga has ended");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(folder: &Path, settings: &[&str]) -> Child {
    let guest = std::env::var_os("SUSTAIN_GUEST_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guest")),
        PathBuf::from,
    );
    let parts = guest.join("parts/agent");
    let program = parts.join("bin/qemu-ga");
    assert!(program.exists(), "{} is missing: run `make setup`", program.display());
    // With the libraries of its own package, whatever this machine has.
    let mut command = Command::new(parts.join("lib/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(parts.join("lib")).arg(program);
    command.args(["--method", "unix-listen", "--path"]).arg(folder.join("socket"));
    command.arg("--statedir").arg(folder).arg("--pidfile").arg(folder.join("pid"));
    // Working folders of its own: each agent is a guest of its own here.
    command.env("TMPDIR", folder).stdin(Stdio::null()).stderr(Stdio::null());
    command.args(settings).spawn().unwrap()
}

fn shell(script: &str, arguments: &[&str]) -> GuestCommand {
    let line = [&["-c", script, "sh"], arguments].concat();
    GuestCommand {
        program: "sh".to_owned(),
        arguments: line.into_iter().map(str::to_owned).collect(),
        environment: vec![("GREETING".to_owned(), "good day".to_owned())],
        deadline: PATIENCE,
    }
}

fn run(agent: &Agent, command: &GuestCommand) -> Result<(super::GuestExit, String), GuestError> {
    let mut output = Vec::new();
    let exit = agent.run(command, &mut io::empty(), &mut output)?;
    Ok((exit, String::from_utf8(output).unwrap()))
}

#[test]
fn a_program_gets_its_input_and_gives_its_output_in_parts() {
    let mut real = RealAgent::start(&[]);
    let agent = Agent::new(real.connect());
    // Several parts, the last one not full, and every byte that there is.
    let input: Vec<u8> =
        (0..AGENT_PART_BYTES * 5 + 7).map(|place| (place * 7 % 251 + place / 9_999) as u8).collect();
    let script =
        r#"cat >"$SUSTAIN_RUN/a"; cat "$SUSTAIN_RUN/a" "$SUSTAIN_RUN/a"; echo "$GREETING, $1" >&2; exit 7"#;
    let mut output = Vec::new();
    let exit = agent.run(&shell(script, &["two words"]), &mut input.as_slice(), &mut output).unwrap();
    assert_eq!((exit.code, exit.signal, exit.stderr_tail.as_str()), (Some(7), None, "good day, two words\n"));
    assert_eq!((exit.input_bytes, exit.output_bytes), (input.len() as u64, 2 * input.len() as u64));
    assert!(output == [input.clone(), input].concat());

    // Neither its folder nor an open file is left, and the next program is a fresh one.
    let (exit, text) = run(
        &agent,
        &shell(
            "ls -d ${SUSTAIN_RUN%.*}.*; ls -l /proc/$PPID/fd | grep -c sustain-run; cat; kill -TERM $$",
            &[],
        ),
    )
    .unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        (lines.len(), lines.last()),
        (2, Some(&"1")),
        "one folder, one open file: its own output; {text}"
    );
    let (exit, _) =
        run(&agent, &GuestCommand { program: "no-such-program".to_owned(), ..shell("", &[]) }).unwrap();
    assert_eq!(exit.code, Some(127), "{}", exit.stderr_tail);
}

#[test]
fn output_comes_while_the_program_runs() {
    let mut real = RealAgent::start(&[]);
    let agent = Agent::new(real.connect());
    let (sender, seen) = mpsc::sync_channel(8);
    let gate = real.folder.path().join("gate");
    let waiting = shell(
        r#"echo first; until [ -e "$1" ]; do sleep 0.02; done; echo second"#,
        &[gate.to_str().unwrap()],
    );
    let running = thread::spawn(move || agent.run(&waiting, &mut io::empty(), &mut Sending(sender)));
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"first\n");
    fs::write(gate, "").unwrap();
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"second\n");
    assert_eq!(running.join().unwrap().unwrap().code, Some(0));
}

/// A process that nobody has waited for yet has ended all the same.
fn wait_for_end(pid: &str) {
    let started = Instant::now();
    let stat = format!("/proc/{}/stat", pid.trim());
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(started.elapsed() < PATIENCE, "process {pid} still runs");
        thread::sleep(Duration::from_millis(5));
    }
}

struct Sending(mpsc::SyncSender<Vec<u8>>);

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
    let mut real = RealAgent::start(&[]);
    let agent = Agent::new(real.connect());
    let note = real.folder.path().join("child");
    let script = r#"sleep 600 & echo $! >"$1"; wait"#;
    let command =
        GuestCommand { deadline: Duration::from_millis(700), ..shell(script, &[note.to_str().unwrap()]) };
    let error = run(&agent, &command).unwrap_err();
    assert!(matches!(error, GuestError::Deadline { .. }), "{error:?}");
    wait_for_end(&fs::read_to_string(note).unwrap());
    assert_eq!(run(&agent, &shell("echo on", &[])).unwrap().1, "on\n");
}

#[test]
fn a_sink_that_fails_ends_the_program() {
    let mut real = RealAgent::start(&[]);
    let agent = Agent::new(real.connect());
    let (sender, seen) = mpsc::sync_channel(1);
    drop(seen);
    let error =
        agent.run(&shell("echo x; exec sleep 600", &[]), &mut io::empty(), &mut Sending(sender)).unwrap_err();
    assert!(matches!(error, GuestError::Output { .. }), "{error:?}");
    assert_eq!(run(&agent, &shell("echo on", &[])).unwrap().1, "on\n");
}

/// What a restore leaves on the line: half a command that the old host sent, an answer nobody waits for.
#[test]
fn what_was_left_on_the_line_confuses_nobody() {
    let mut real = RealAgent::start(&[]);
    let mut stream = real.connect();
    stream.write_all(b"{\"execute\": \"guest-ping\"}\n{\"execute\": \"guest-get-host-name\"}\n").unwrap();
    stream.write_all(b"{\"execute\": \"guest-sync-delimited\", \"arguments\": {\"id\": 12}}\n").unwrap();
    stream.write_all(b"{\"execute\": \"guest-file-wri").unwrap();
    let mut connection = Connection::new(stream.try_clone().unwrap());
    let info = connection.info(PATIENCE).unwrap();
    assert!(info.commands.iter().any(|command| command == "guest-exec"), "{info:?}");
    // The same in the middle of a connection, noticed by a time-out.
    let late = connection.call("guest-info", &json!({}), Duration::from_micros(1)).unwrap_err();
    assert!(matches!(late, AgentError::Silent { .. }), "{late:?}");
    assert_eq!(connection.call("guest-ping", &json!({}), PATIENCE).unwrap(), json!({}));
    let refused = connection.call("guest-nothing", &json!({}), PATIENCE).unwrap_err();
    assert!(matches!(refused, AgentError::Refused { .. }), "{refused:?}");
    let missing = GuestFile::open(&mut connection, "/no/such/file", "r", PATIENCE).unwrap_err();
    assert!(matches!(missing, AgentError::Refused { .. }), "{missing:?}");
}

#[test]
fn a_program_under_way_is_lost_with_its_agent() {
    let mut real = RealAgent::start(&[]);
    let agent = Agent::new(real.connect());
    let (sender, seen) = mpsc::sync_channel(1);
    let running = thread::spawn(move || {
        agent.run(&shell("echo $$; exec sleep 600", &[]), &mut io::empty(), &mut Sending(sender))
    });
    let pid = seen.recv_timeout(PATIENCE).unwrap();
    real.restart();
    let error = running.join().unwrap().unwrap_err();
    assert!(matches!(error, GuestError::Lost { .. }), "{error:?}");

    // The next agent's first run ends what the lost one left, and takes its folder away.
    let agent = Agent::new(real.connect());
    let (exit, text) = run(&agent, &shell("ls -d ${SUSTAIN_RUN%.*}.*", &[])).unwrap();
    assert_eq!((exit.code, text.lines().count()), (Some(0), 1), "{text}{}", exit.stderr_tail);
    wait_for_end(&String::from_utf8(pid).unwrap());
}

#[test]
fn an_agent_that_may_not_or_does_not_answer_is_told_apart() {
    let mut real = RealAgent::start(&["--blacklist", "guest-exec"]);
    let agent = Agent::new(real.connect());
    let error = run(&agent, &shell("true", &[])).unwrap_err();
    assert!(matches!(&error, GuestError::Incapable { command: "guest-exec", .. }), "{error:?}");

    let (ours, _theirs) = UnixStream::pair().unwrap();
    let command = GuestCommand { deadline: Duration::from_millis(50), ..shell("true", &[]) };
    let error = run(&Agent::new(ours), &command).unwrap_err();
    assert!(matches!(error, GuestError::Silent { .. }), "{error:?}");
}
