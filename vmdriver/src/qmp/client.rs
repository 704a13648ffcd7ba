//! One connection to one QEMU.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::limits::{QMP_EVENTS_MAX, QMP_LINE_BYTES_MAX, QMP_WATCH_TIMEOUT};
use crate::lines::{LineTooLong, Lines};
use crate::patience::{Patience, STEP};

use super::QmpError;
use super::message::{Event, Message, parse};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// A connection on which commands are sent one after the other.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    lines: Lines,
    events: VecDeque<Event>,
    next_id: u64,
    version: (u64, u64, u64),
    silent: Option<Duration>,
}

impl Client {
    /// Waits for QEMU's greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// If QEMU doesn't greet in time, or with something else than a greeting.
    pub(crate) fn connect(stream: UnixStream, timeout: Duration) -> Result<Self, QmpError> {
        let mut client = Self {
            stream,
            lines: Lines::new(QMP_LINE_BYTES_MAX),
            events: VecDeque::new(),
            next_id: 1,
            version: (0, 0, 0),
            silent: None,
        };
        let deadline = Deadline::new("the greeting", timeout);
        match client.receive(&deadline)? {
            Message::Greeting { version } => client.version = version,
            _ => return Err(QmpError::Protocol { what: "no greeting first" }),
        }
        client.execute("qmp_capabilities", json!({}), timeout)?;
        Ok(client)
    }

    /// QEMU's version: major, minor, micro.
    pub(crate) fn version(&self) -> (u64, u64, u64) {
        self.version
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// If QEMU refuses it, is gone, or does not answer in time.
    pub(crate) fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        self.request(command, &arguments, timeout, None)
    }

    /// Carries out a command that a file descriptor goes along with.
    ///
    /// # Errors
    /// As for [`Client::execute`].
    pub(crate) fn execute_with(
        &mut self,
        command: &'static str,
        arguments: Value,
        descriptor: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        self.request(command, &arguments, timeout, Some(descriptor))
    }

    /// Takes the events that are there, after reading what has arrived, without waiting.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub(crate) fn take_events(&mut self) -> Result<Vec<Event>, QmpError> {
        self.stream.set_nonblocking(true).map_err(QmpError::io)?;
        let received = self.receive_arrived();
        self.stream.set_nonblocking(false).map_err(QmpError::io)?;
        received?;
        Ok(self.events.drain(..).collect())
    }

    fn receive_arrived(&mut self) -> Result<(), QmpError> {
        let mut buffer = [0_u8; READ_BYTES];
        loop {
            while let Some(line) = self.lines.next()? {
                if let Message::Event(event) = parse(&line)? {
                    self.keep(event);
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(bytes) => self.lines.push(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(QmpError::io(error)),
            }
        }
    }

    /// Waits for an event, kept or still to come. Events before it are dropped.
    ///
    /// # Errors
    /// If it doesn't come in time, or QEMU is gone.
    pub(crate) fn wait_for_event(
        &mut self,
        what: &'static str,
        timeout: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Event, QmpError> {
        let deadline = Deadline::new(what, timeout);
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(event);
                }
            }
            if let Message::Event(event) = self.receive(&deadline)? {
                self.keep(event);
            }
        }
    }

    /// Sends a command without waiting for its answer, so that the next one can be on its way already. QEMU
    /// carries them out one after the other. Its answer is taken by [`Client::finish`], in the order of
    /// sending.
    ///
    /// # Errors
    /// If it can't be sent.
    pub(crate) fn begin(
        &mut self,
        command: &'static str,
        arguments: &Value,
        timeout: Duration,
    ) -> Result<Pending, QmpError> {
        self.begin_with(command, arguments, timeout, None)
    }

    /// Waits for the answer to a command.
    ///
    /// # Errors
    /// If QEMU refuses it, is gone, or does not answer in time.
    pub(crate) fn finish(&mut self, pending: Pending) -> Result<Value, QmpError> {
        let Pending { id, command, deadline } = pending;
        loop {
            match self.receive(&deadline)? {
                Message::Event(event) => self.keep(event),
                Message::Return { id: Some(found), value } if found == id => return Ok(value),
                Message::Refusal { id: Some(found), description } if found == id => {
                    return Err(QmpError::Refused { command, description });
                }
                // QEMU could not read the command far enough to know its id.
                Message::Refusal { id: None, description } => {
                    return Err(QmpError::Refused { command, description });
                }
                // The late answer to a command that was given up.
                Message::Return { .. } | Message::Refusal { .. } => {}
                Message::Greeting { .. } => return Err(QmpError::Protocol { what: "a second greeting" }),
            }
        }
    }

    fn begin_with(
        &mut self,
        command: &'static str,
        arguments: &Value,
        timeout: Duration,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Pending, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        // One that does not answer is not waited for as long again with each command.
        let timeout = if self.silent.is_some() { timeout.min(QMP_WATCH_TIMEOUT) } else { timeout };
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let deadline = Deadline::new(command, timeout);
        self.send(line.as_bytes(), descriptor, &deadline)?;
        Ok(Pending { id, command, deadline })
    }

    fn request(
        &mut self,
        command: &'static str,
        arguments: &Value,
        timeout: Duration,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        let pending = self.begin_with(command, arguments, timeout, descriptor)?;
        self.finish(pending)
    }

    fn send(
        &mut self,
        bytes: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        deadline: &Deadline,
    ) -> Result<(), QmpError> {
        self.stream.set_write_timeout(Some(deadline.left()?)).map_err(QmpError::io)?;
        let mut sent = 0;
        if let Some(descriptor) = descriptor {
            sent = send_with(&self.stream, bytes, descriptor).map_err(|error| deadline.or_io(error))?;
        }
        self.stream.write_all(&bytes[sent..]).map_err(|error| deadline.or_io(error))
    }

    /// How long it has not answered, since it first did not do so in time; none if it has spoken since.
    pub(crate) fn silent(&self) -> Option<Duration> {
        self.silent
    }

    fn receive(&mut self, deadline: &Deadline) -> Result<Message, QmpError> {
        let received = self.receive_in_time(deadline);
        match &received {
            Ok(_) => self.silent = None,
            Err(QmpError::Timeout { timeout, .. }) => {
                self.silent = Some(self.silent.unwrap_or_default() + *timeout);
            }
            Err(_) => {}
        }
        received
    }

    fn receive_in_time(&mut self, deadline: &Deadline) -> Result<Message, QmpError> {
        let mut buffer = [0_u8; READ_BYTES];
        loop {
            if let Some(line) = self.lines.next()? {
                return parse(&line);
            }
            self.stream.set_read_timeout(Some(deadline.left()?)).map_err(QmpError::io)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(bytes) => self.lines.push(&buffer[..bytes]),
                // A step is over; `left` says whether there is another.
                Err(error) if is_over(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(deadline.or_io(error)),
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() == QMP_EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// A command that was sent.
#[derive(Debug)]
#[must_use = "its answer is still to come"]
pub(crate) struct Pending {
    id: u64,
    command: &'static str,
    deadline: Deadline,
}

/// Whether a wait for a socket came to its end.
fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Sends bytes with a descriptor attached to the first of them; returns how many bytes went.
fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the descriptor"));
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(sent)
}

/// When a wait ends, and what was waited for.
#[derive(Debug)]
struct Deadline {
    what: &'static str,
    timeout: Duration,
    patience: Patience,
}

impl Deadline {
    fn new(what: &'static str, timeout: Duration) -> Self {
        Self { what, timeout, patience: Patience::new(timeout, Instant::now()) }
    }

    /// The time left, at most a step of it; a socket takes no time-out of zero, so the last microsecond is
    /// rounded up.
    fn left(&self) -> Result<Duration, QmpError> {
        let left = self.patience.left(Instant::now()).min(STEP);
        if left.is_zero() { Err(self.missed()) } else { Ok(left.max(Duration::from_micros(1))) }
    }

    fn missed(&self) -> QmpError {
        QmpError::Timeout { what: self.what, timeout: self.timeout }
    }

    fn or_io(&self, error: io::Error) -> QmpError {
        match error.kind() {
            _ if is_over(&error) => self.missed(),
            // What a socket says whose other end has gone.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => QmpError::Closed,
            _ => QmpError::io(error),
        }
    }
}

impl From<LineTooLong> for QmpError {
    fn from(_: LineTooLong) -> Self {
        Self::Protocol { what: "a line that is too long" }
    }
}

impl QmpError {
    fn io(source: io::Error) -> Self {
        Self::Io { source }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
