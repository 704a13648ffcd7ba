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
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Seek, SeekFrom};
    use std::os::fd::OwnedFd;
    use std::thread::JoinHandle;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10}}}}"#;
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A QEMU that answers each line it gets by the next text, with `ID` filled in, and then hangs up.
    fn qemu(greeting: &str, answers: &[&str]) -> (UnixStream, JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let greeting = greeting.to_owned();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let thread = std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            writeln!(writer, "{greeting}").unwrap();
            let mut commands = Vec::new();
            let mut reader = BufReader::new(theirs);
            for answer in answers {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap() == 0 {
                    break;
                }
                let command: Value = serde_json::from_str(&line).unwrap();
                commands.push(command["execute"].as_str().unwrap().to_owned());
                let answer = answer.replace("ID", &command["id"].to_string());
                // In two parts: nothing may depend on how bytes arrive.
                let (first, second) = answer.split_at(answer.len() / 2);
                writer.write_all(first.as_bytes()).unwrap();
                writeln!(writer, "{second}").unwrap();
            }
            commands
        });
        (ours, thread)
    }

    const OK: &str = r#"{"return":{},"id":ID}"#;

    #[test]
    fn commands_events_and_late_answers_are_kept_apart() {
        let stop = r#"{"timestamp":{"seconds":5,"microseconds":0},"event":"STOP"}"#;
        let noise = format!(r#"{{"return":{{"late":1}},"id":99}}{0}{stop}{0}{OK}"#, "\n");
        let (stream, thread) = qemu(GREETING, &[OK, &noise, r#"{"error":{"desc":"no"},"id":ID}"#]);
        let mut client = Client::connect(stream, PATIENCE).unwrap();
        assert_eq!(client.version(), (10, 0, 2));
        assert_eq!(client.execute("stop", json!({}), PATIENCE).unwrap(), json!({}));
        let event = client.wait_for_event("STOP", PATIENCE, |event| event.name == "STOP").unwrap();
        assert_eq!(event.at, Duration::from_secs(5));
        let refused = client.execute("cont", json!({}), PATIENCE).unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refuses cont: no");
        assert_eq!(thread.join().unwrap(), ["qmp_capabilities", "stop", "cont"]);
        assert!(matches!(client.execute("quit", json!({}), PATIENCE), Err(QmpError::Closed)));
        assert!(matches!(client.take_events(), Err(QmpError::Closed)));
    }

    #[test]
    fn silence_ends_in_a_time_out_and_the_connection_stays_usable() {
        let late = format!("{OK}\n");
        let (stream, thread) = qemu(GREETING, &[OK, "{\"event\":\"RTC_CHANGE\"}", &late]);
        let mut client = Client::connect(stream, PATIENCE).unwrap();
        let error = client.execute("stop", json!({}), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, QmpError::Timeout { what: "stop", .. }), "{error}");
        client.execute("cont", json!({}), PATIENCE).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_first_word_that_is_no_greeting_is_refused() {
        for (word, closes) in [("SSH-2.0-x", false), (r#"{"return":{}}"#, false), ("", true)] {
            let (stream, thread) = qemu(word, &[]);
            let error = Client::connect(stream, PATIENCE).unwrap_err();
            assert_eq!(matches!(error, QmpError::Closed), closes, "{word}: {error}");
            assert_eq!(matches!(error, QmpError::Protocol { .. }), !closes, "{word}: {error}");
            thread.join().unwrap();
        }
    }

    #[test]
    fn events_that_nobody_takes_are_bounded_and_the_newest_stay() {
        let mut flood = String::new();
        for number in 0..3 * QMP_EVENTS_MAX {
            flood += &format!("{{\"event\":\"E{number}\"}}\n");
        }
        let (stream, thread) = qemu(GREETING, &[OK, &(flood + OK)]);
        let mut client = Client::connect(stream, PATIENCE).unwrap();
        client.execute("stop", json!({}), PATIENCE).unwrap();
        assert_eq!(client.events.len(), QMP_EVENTS_MAX);
        assert_eq!(client.events.back().unwrap().name, format!("E{}", 3 * QMP_EVENTS_MAX - 1));
        thread.join().unwrap();
    }

    #[test]
    fn a_descriptor_arrives_with_its_command() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            writeln!(writer, "{GREETING}").unwrap();
            writeln!(writer, r#"{{"return":{{}},"id":1}}"#).unwrap();
            let mut found: Option<OwnedFd> = None;
            let mut text = Vec::new();
            while !text.ends_with(b"\"id\":2}\n") && !String::from_utf8_lossy(&text).contains("getfd") {
                let mut bytes = [0_u8; 512];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
                let received = recvmsg(&theirs, &mut slices, &mut ancillary, RecvFlags::empty()).unwrap();
                text.extend_from_slice(&bytes[..received.bytes]);
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                        found = descriptors.next();
                    }
                }
            }
            writeln!(writer, r#"{{"return":{{}},"id":2}}"#).unwrap();
            let mut file = File::from(found.expect("a descriptor"));
            file.write_all(b"device state").unwrap();
        });
        let mut client = Client::connect(ours, PATIENCE).unwrap();
        let mut file = crate::memory_file::create("test").unwrap();
        client.execute_with("getfd", json!({ "fdname": "device" }), file.as_fd(), PATIENCE).unwrap();
        thread.join().unwrap();
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "device state");
    }
}
