//! The guest's channel, as far as it is bytes: lines in, lines out, and nobody waits for anybody.
//!
//! ```text
//! guest ── port ── socket ─┬─ reader thread: bytes → lines ──▶ the caller's function
//!                          └─ writer thread: bytes ◀── a queue of bounded length ◀── ChannelLink::send
//! ```
//! What the lines mean is the node's affair.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::limits::{CHANNEL_LINE_BYTES_MAX, CHANNEL_LINES_WAITING_MAX};
use crate::lines::{LineTooLong, Lines};

/// The channel's name in the guest: `/dev/virtio-ports/org.sustain.0`.
pub const CHANNEL_PORT: &str = "org.sustain.0";

/// Our end of a VM's channel, not in use yet.
#[derive(Debug)]
pub struct ChannelEnd {
    /// What is written here, the guest reads.
    pub stream: UnixStream,
    /// The VM was restored, and a program in the guest had the port open when it was saved. That program
    /// may wait for an answer that nobody will send: it has to be told to ask again.
    pub waiting: bool,
}

/// What comes from a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelInput {
    /// A line, without its end.
    Line(Vec<u8>),
    /// A line that had more than [`CHANNEL_LINE_BYTES_MAX`] bytes, and was passed over.
    TooLong,
    /// Nothing comes any more: the VM has ended.
    Closed,
}

/// A channel in use. Dropping it closes the channel.
#[derive(Debug)]
pub struct ChannelLink {
    stream: UnixStream,
    /// None only while it is dropped.
    queue: Option<SyncSender<String>>,
    threads: Vec<JoinHandle<()>>,
}

impl ChannelLink {
    /// Begins to read lines. `input` is called for each, on a thread of its own, and may block: the guest
    /// then waits.
    ///
    /// # Errors
    /// If there are no threads to be had.
    pub fn start(end: ChannelEnd, input: impl FnMut(ChannelInput) + Send + 'static) -> io::Result<Self> {
        let stream = end.stream;
        let (queue, lines) = sync_channel(CHANNEL_LINES_WAITING_MAX);
        let mut link = Self { stream: stream.try_clone()?, queue: Some(queue), threads: Vec::new() };
        let (reading, writing) = (stream.try_clone()?, stream);
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        link.threads.push(spawn("channel-writer").spawn(move || write(writing, &lines))?);
        link.threads.push(spawn("channel-reader").spawn(move || read(reading, input))?);
        Ok(link)
    }

    /// Sends a line, given without its end. Returns false if the guest does not read: too many lines wait
    /// for it already, or the VM has ended. The line is dropped then.
    #[must_use]
    pub fn send(&self, line: &str) -> bool {
        let Some(queue) = &self.queue else { return false };
        !matches!(
            queue.try_send(format!("{line}\n")),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
        )
    }
}

impl Drop for ChannelLink {
    fn drop(&mut self) {
        // Wakes both threads, wherever they wait.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.queue = None;
        for thread in self.threads.drain(..) {
            // The reader drops a link from inside its own function only by mistake; it can't wait for itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of a guest's channel failed");
            }
        }
    }
}

fn write(mut stream: UnixStream, lines: &Receiver<String>) {
    for line in lines {
        if stream.write_all(line.as_bytes()).is_err() {
            // The VM has ended; the reader says so.
            return;
        }
    }
}

fn read(mut stream: UnixStream, mut input: impl FnMut(ChannelInput)) {
    let mut lines = Lines::new(CHANNEL_LINE_BYTES_MAX);
    let mut buffer = [0; CHANNEL_LINE_BYTES_MAX];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => lines.push(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!(%error, "a guest's channel ends");
                break;
            }
        }
        loop {
            match lines.next() {
                Ok(Some(line)) => input(ChannelInput::Line(line)),
                Ok(None) => break,
                Err(LineTooLong) => input(ChannelInput::TooLong),
            }
        }
    }
    input(ChannelInput::Closed);
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn link() -> (ChannelLink, UnixStream, mpsc::Receiver<ChannelInput>) {
        let (stream, guest) = UnixStream::pair().unwrap();
        let (sender, inputs) = sync_channel(8);
        let input = move |input| drop(sender.send(input));
        (ChannelLink::start(ChannelEnd { stream, waiting: false }, input).unwrap(), guest, inputs)
    }

    #[test]
    fn lines_go_both_ways_until_the_guest_ends() {
        let (link, mut guest, inputs) = link();
        guest.write_all(b"\n{\"ask\":\"status\"}\n").unwrap();
        let line = inputs.recv_timeout(PATIENCE).unwrap();
        assert_eq!(line, ChannelInput::Line(b"{\"ask\":\"status\"}".to_vec()));
        assert!(link.send("{\"role\":\"server\"}"));
        let mut answer = String::new();
        BufReader::new(guest.try_clone().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(answer, "{\"role\":\"server\"}\n");
        guest.write_all(&[b'x'; CHANNEL_LINE_BYTES_MAX + 1]).unwrap();
        assert_eq!(inputs.recv_timeout(PATIENCE).unwrap(), ChannelInput::TooLong);
        drop(guest);
        assert_eq!(inputs.recv_timeout(PATIENCE).unwrap(), ChannelInput::Closed);
    }

    #[test]
    fn a_guest_that_does_not_read_blocks_nobody() {
        let (link, guest, _inputs) = link();
        let line = "x".repeat(CHANNEL_LINE_BYTES_MAX);
        let started = Instant::now();
        let mut sent = 0;
        while link.send(&line) {
            sent += 1;
            assert!(started.elapsed() < PATIENCE, "{sent} lines went nowhere");
        }
        assert!(sent >= CHANNEL_LINES_WAITING_MAX);
        // Nor does it keep the link from being closed, with a line half written.
        let started = Instant::now();
        drop(link);
        assert!(started.elapsed() < PATIENCE);
        drop(guest);
    }
}
