//! One connection to a guest's agent: a command at a time, each with a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::limits::{AGENT_LINE_BYTES_MAX, AGENT_STALE_LINES_MAX};
use crate::lines::Lines;

use super::wire::{self, Answer};

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// Why the agent did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// It keeps silent.
    #[error("no answer to {command} within {} ms", waited.as_millis())]
    Silent {
        /// What was asked.
        command: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// QEMU has closed the connection.
    #[error("the connection to the agent is closed")]
    Closed,
    /// The socket fails.
    #[error("the connection to the agent failed")]
    Io {
        /// Why.
        source: io::Error,
    },
    /// The agent says no.
    #[error("the agent refuses {command}: {description}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// The kind of refusal, such as `CommandNotFound`.
        class: String,
        /// Why.
        description: String,
    },
    /// It answers something else than what was asked.
    #[error("the agent's answer to {command} makes no sense: {what}")]
    Nonsense {
        /// What was asked.
        command: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

/// The connection, and whether the two sides agree on what was said last.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    lines: Lines,
    in_step: bool,
    next_id: u64,
}

impl Connection {
    /// Over our end of the port. The first command will find out whether anybody is there.
    pub(crate) fn new(stream: UnixStream) -> Self {
        // Numbers of an earlier connection may still be on the line: begin somewhere else each time.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let next_id = u64::try_from(time.as_nanos()).unwrap_or_default() >> 11;
        Self { stream, lines: Lines::new(AGENT_LINE_BYTES_MAX), in_step: false, next_id }
    }

    /// Carries out a command. After any failure but a refusal, the next one begins by getting in step.
    pub(crate) fn call(
        &mut self,
        command: &'static str,
        arguments: &Value,
        timeout: Duration,
    ) -> Result<Value, AgentError> {
        let deadline = Instant::now() + timeout;
        if !self.in_step {
            self.get_in_step(timeout)?;
        }
        self.in_step = false;
        let id = self.take_id();
        let waiting = Waiting { command, timeout, deadline };
        self.send(&wire::command(command, arguments, id), &waiting)?;
        for _ in 0..AGENT_STALE_LINES_MAX {
            match wire::parse(&self.receive(&waiting)?) {
                Answer::Return { id: found, value } if found.is_none_or(|found| found == id) => {
                    self.in_step = true;
                    return Ok(value);
                }
                Answer::Refusal { id: found, class, description }
                    if found.is_none_or(|found| found == id) =>
                {
                    self.in_step = true;
                    return Err(AgentError::Refused { command, class, description });
                }
                Answer::Return { .. } | Answer::Refusal { .. } | Answer::Noise => {}
            }
        }
        Err(AgentError::Nonsense { command, what: "nothing but answers to something else" })
    }

    /// Carries out a command whose answer is empty.
    pub(crate) fn tell(
        &mut self,
        command: &'static str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<(), AgentError> {
        self.call(command, &arguments, timeout).map(drop)
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Drops whatever is on the line: answers that nobody waits for any more, and, after a restore, those
    /// that the guest had begun for a host that is gone.
    fn get_in_step(&mut self, timeout: Duration) -> Result<(), AgentError> {
        let number = self.take_id();
        let waiting =
            Waiting { command: "guest-sync-delimited", timeout, deadline: Instant::now() + timeout };
        self.send(&wire::sync(number), &waiting)?;
        for _ in 0..AGENT_STALE_LINES_MAX {
            if wire::is_synced(&self.receive(&waiting)?, number) {
                self.in_step = true;
                return Ok(());
            }
        }
        Err(AgentError::Nonsense { command: waiting.command, what: "nothing but answers to something else" })
    }

    fn send(&mut self, bytes: &[u8], waiting: &Waiting) -> Result<(), AgentError> {
        // A line that was cut short by the time-out is ended by the next sync's first byte.
        self.stream.set_write_timeout(Some(waiting.left()?)).map_err(AgentError::io)?;
        self.stream.write_all(bytes).map_err(|error| waiting.or_io(error))
    }

    fn receive(&mut self, waiting: &Waiting) -> Result<Vec<u8>, AgentError> {
        let mut buffer = vec![0_u8; READ_BYTES];
        loop {
            // One that is too long is no answer to anything that is asked here.
            if let Some(line) = self.lines.next().unwrap_or_default() {
                return Ok(line);
            }
            self.stream.set_read_timeout(Some(waiting.left()?)).map_err(AgentError::io)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(AgentError::Closed),
                Ok(bytes) => self.lines.push(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(waiting.or_io(error)),
            }
        }
    }

    /// Asks the agent for its version and its commands; those that are switched off are left out.
    pub(crate) fn info(&mut self, timeout: Duration) -> Result<AgentInfo, AgentError> {
        let answer = self.call("guest-info", &json!({}), timeout)?;
        let commands = answer["supported_commands"].as_array().into_iter().flatten();
        let enabled = commands.filter(|command| command["enabled"].as_bool() == Some(true));
        Ok(AgentInfo {
            version: answer["version"].as_str().unwrap_or("unknown").chars().take(64).collect(),
            commands: enabled.filter_map(|command| Some(command["name"].as_str()?.to_owned())).collect(),
        })
    }
}

/// What an agent says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentInfo {
    pub(crate) version: String,
    pub(crate) commands: Vec<String>,
}

impl AgentInfo {
    /// The first of these commands that it does not have or may not carry out.
    pub(crate) fn lacking(&self, wanted: &[&'static str]) -> Option<&'static str> {
        wanted.iter().find(|wanted| !self.commands.iter().any(|command| command == *wanted)).copied()
    }
}

/// When a wait ends, and what was waited for.
struct Waiting {
    command: &'static str,
    timeout: Duration,
    deadline: Instant,
}

impl Waiting {
    fn left(&self) -> Result<Duration, AgentError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // A socket takes no time-out of zero, so the last microsecond is rounded up.
        if left.is_zero() { Err(self.silent()) } else { Ok(left.max(Duration::from_micros(1))) }
    }

    fn silent(&self) -> AgentError {
        AgentError::Silent { command: self.command, waited: self.timeout }
    }

    fn or_io(&self, error: io::Error) -> AgentError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.silent(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => AgentError::Closed,
            _ => AgentError::io(error),
        }
    }
}

impl AgentError {
    fn io(source: io::Error) -> Self {
        Self::Io { source }
    }
}
