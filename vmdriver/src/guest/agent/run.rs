//! Runs a program in the guest: input into a file, the program, its output out of a file as it grows.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::guest::command::{GuestCommand, GuestError, GuestExit};
use crate::limits::{self, AGENT_ANSWER_TIMEOUT};

use super::connection::{AgentError, Connection};
use super::file::{GuestFile, number};
use super::shell::{POLL_INTERVAL, shell};

const PREPARE: &str = include_str!("prepare.sh");
const START: &str = include_str!("start.sh");
const END: &str = r#"kill -KILL "-$1" 2>/dev/null || kill -KILL "$1""#;
const CLEAN: &str = r#"rm -rf "$1""#;

/// What running a program takes of an agent.
const COMMANDS: [&str; 6] = [
    "guest-exec",
    "guest-exec-status",
    "guest-file-open",
    "guest-file-read",
    "guest-file-write",
    "guest-file-close",
];

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the program. Whatever becomes of it, its folder is removed, if the agent still answers.
pub(super) fn run(
    connection: &mut Connection,
    command: &GuestCommand,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<GuestExit, GuestError> {
    let deadline = Instant::now() + command.deadline;
    let mut run = Run { connection, total: command.deadline, deadline, answered: false };
    run.check_agent()?;
    let folder = run.prepare()?;
    let outcome = run.in_folder(&folder, command, input, output);
    // Without an agent nothing can be tidied up; the next run does it.
    if !matches!(&outcome, Err(GuestError::Lost { .. } | GuestError::Silent { .. })) {
        let cleaned = shell(run.connection, CLEAN, &[&folder], AGENT_ANSWER_TIMEOUT);
        if let Err(error) = cleaned {
            tracing::debug!(%error, folder, "the folder of a program in the guest stays behind");
        }
    }
    outcome
}

struct Run<'a> {
    connection: &'a mut Connection,
    total: Duration,
    deadline: Instant,
    /// Whether the agent has said anything in this run.
    answered: bool,
}

impl Run<'_> {
    /// How long the next command may take.
    fn patience(&self) -> Result<Duration, GuestError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.too_late()) } else { Ok(left.min(AGENT_ANSWER_TIMEOUT)) }
    }

    fn too_late(&self) -> GuestError {
        GuestError::Deadline { deadline: self.total }
    }

    fn explain(&self, doing: &'static str, error: AgentError) -> GuestError {
        match error {
            AgentError::Closed | AgentError::Io { .. } => GuestError::Lost { source: error.into() },
            AgentError::Silent { .. } if self.answered && Instant::now() >= self.deadline => self.too_late(),
            AgentError::Silent { .. } => GuestError::Silent { source: error.into() },
            AgentError::Refused { .. } | AgentError::Nonsense { .. } => {
                GuestError::Failed { doing, source: error.into() }
            }
        }
    }

    fn check_agent(&mut self) -> Result<(), GuestError> {
        let patience = self.patience()?;
        let info =
            self.connection.info(patience).map_err(|error| self.explain("telling what it can", error))?;
        self.answered = true;
        match info.lacking(&COMMANDS) {
            Some(command) => Err(GuestError::Incapable { version: info.version, command }),
            None => Ok(()),
        }
    }

    fn prepare(&mut self) -> Result<String, GuestError> {
        let doing = "making a folder for the program";
        let patience = self.patience()?;
        let made =
            shell(self.connection, PREPARE, &[], patience).map_err(|error| self.explain(doing, error))?;
        let folder = String::from_utf8_lossy(&made.stdout).into_owned();
        if made.code == Some(0) && folder.starts_with('/') {
            return Ok(folder);
        }
        let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        Err(GuestError::Failed { doing, source: printable(&said).into() })
    }

    fn in_folder(
        &mut self,
        folder: &str,
        command: &GuestCommand,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<GuestExit, GuestError> {
        let input_bytes = self.upload(&format!("{folder}/in"), input)?;
        let pid = self.start(folder, command)?;
        let watched = self.watch(folder, pid, output);
        if matches!(&watched, Err(error) if !matches!(error, GuestError::Lost { .. })) {
            // Nobody would wait for it any more.
            let ended = shell(self.connection, END, &[&pid.to_string()], AGENT_ANSWER_TIMEOUT);
            if let Err(error) = ended {
                tracing::warn!(%error, pid, "a program in the guest that nobody waits for may run on");
            }
        }
        let (ending, output_bytes) = watched?;
        let stderr_tail = self.tail(&format!("{folder}/err"))?;
        let part = |key: &str| ending[key].as_i64().and_then(|number| i32::try_from(number).ok());
        Ok(GuestExit {
            code: part("exitcode"),
            signal: part("signal"),
            stderr_tail,
            input_bytes,
            output_bytes,
        })
    }

    /// Copies the input into a file; without any there is no file.
    fn upload(&mut self, path: &str, input: &mut dyn Read) -> Result<u64, GuestError> {
        let doing = "taking the program's input";
        let mut part = vec![0; limits::AGENT_PART_BYTES];
        let mut file = None;
        let mut total = 0;
        loop {
            let count = fill(input, &mut part).map_err(|source| GuestError::Input { source })?;
            if count == 0 {
                break;
            }
            let patience = self.patience()?;
            let opened = match file {
                Some(file) => Ok(file),
                None => GuestFile::open(self.connection, path, "w", patience),
            };
            let opened = opened.map_err(|error| self.explain(doing, error))?;
            file = Some(opened);
            if let Err(error) = opened.write(self.connection, &part[..count], patience) {
                let _ = opened.close(self.connection, AGENT_ANSWER_TIMEOUT);
                return Err(self.explain(doing, error));
            }
            total += count as u64;
        }
        if let Some(file) = file {
            let patience = self.patience()?;
            file.close(self.connection, patience).map_err(|error| self.explain(doing, error))?;
        }
        Ok(total)
    }

    fn start(&mut self, folder: &str, command: &GuestCommand) -> Result<i64, GuestError> {
        let doing = "starting the program";
        let mut environment = BTreeMap::from([("PATH", PATH), ("HOME", "/")]);
        environment.extend(command.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        environment.insert("SUSTAIN_RUN", folder);
        let environment: Vec<String> =
            environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut arguments = vec!["-c", START, "sh", folder, command.program.as_str()];
        arguments.extend(command.arguments.iter().map(String::as_str));
        let call = json!({ "path": "/bin/sh", "arg": arguments, "env": environment });
        let patience = self.patience()?;
        let answer = self.connection.call("guest-exec", &call, patience);
        let pid = answer.and_then(|answer| number(&answer, "pid", "guest-exec"));
        pid.map_err(|error| self.explain(doing, error))
    }

    /// Carries output over until the program has ended; returns how it ended, and the bytes carried.
    fn watch(&mut self, folder: &str, pid: i64, output: &mut dyn Write) -> Result<(Value, u64), GuestError> {
        let doing = "handing over the program's output";
        let patience = self.patience()?;
        let file = GuestFile::open(self.connection, &format!("{folder}/out"), "r", patience)
            .map_err(|error| self.explain(doing, error))?;
        let outcome = self.follow(file, pid, output);
        if !matches!(&outcome, Err(GuestError::Lost { .. } | GuestError::Silent { .. })) {
            let closed = file.close(self.connection, AGENT_ANSWER_TIMEOUT);
            closed.map_err(|error| self.explain(doing, error))?;
        }
        outcome
    }

    fn follow(
        &mut self,
        file: GuestFile,
        pid: i64,
        output: &mut dyn Write,
    ) -> Result<(Value, u64), GuestError> {
        let mut pause = POLL_INTERVAL;
        let mut total = 0;
        loop {
            // Asked first: what it wrote before it ended is there once it has.
            let patience = self.patience()?;
            let status = self.connection.call("guest-exec-status", &json!({ "pid": pid }), patience);
            let status = status.map_err(|error| match error {
                // Only an agent that was started anew does not know the program.
                AgentError::Refused { .. } => GuestError::Lost { source: error.into() },
                error => self.explain("watching the program", error),
            })?;
            let carried = self.carry(file, output)?;
            total += carried;
            if status["exited"].as_bool() == Some(true) {
                output.flush().map_err(|source| GuestError::Output { source })?;
                return Ok((status, total));
            }
            pause =
                if carried > 0 { POLL_INTERVAL } else { (pause * 2).min(limits::AGENT_POLL_INTERVAL_MAX) };
            std::thread::sleep(pause.min(self.patience()?));
        }
    }

    /// Carries over what is there now.
    fn carry(&mut self, file: GuestFile, output: &mut dyn Write) -> Result<u64, GuestError> {
        let mut carried = 0;
        loop {
            let patience = self.patience()?;
            let part = file.read(self.connection, patience);
            let part = part.map_err(|error| self.explain("handing over the program's output", error))?;
            if part.is_empty() {
                return Ok(carried);
            }
            output.write_all(&part).map_err(|source| GuestError::Output { source })?;
            carried += part.len() as u64;
        }
    }

    /// The end of what the program wrote to its standard error.
    fn tail(&mut self, path: &str) -> Result<String, GuestError> {
        let script = format!("tail -c {} \"$1\"", limits::GUEST_STDERR_BYTES_MAX);
        let patience = self.patience()?;
        let read = shell(self.connection, &script, &[path], patience);
        let read = read.map_err(|error| self.explain("handing over the program's errors", error))?;
        Ok(printable(&String::from_utf8_lossy(&read.stdout)))
    }
}

/// Reads until the part is full or the input ends.
fn fill(input: &mut dyn Read, part: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < part.len() {
        match input.read(&mut part[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The guest must not write to the reader's terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
