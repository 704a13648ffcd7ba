//! One client: negotiation, then a thread that reads requests and some that carry them out side by side.

use std::cell::Cell;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::budget::{Allowance, Budget, Loan};
use super::handshake::{self, CLIENT_FLAGS_BYTES, Handshake, Next, OPTION_HEAD_BYTES, Session, Violation};
use super::patient::{Patience, Patient, write_all};
use super::places::{InFlight, Place};
use super::request::{Action, REQUEST_BYTES, Request};
use super::serve_request;
use super::wire::Errno;
use crate::disk::volume::Volume;
use crate::limits::{
    NBD_CLIENT_TIMEOUT, NBD_OPTION_BYTES_MAX, NBD_QUEUE_MAX, NBD_READ_BUFFER_BYTES, NBD_WORKERS,
};

/// A request with its data.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) action: Result<Action, Errno>,
    pub(crate) data: Vec<u8>,
    _memory: Loan,
    _in_flight: InFlight,
}

/// Where replies go, each in one piece.
pub(crate) struct Replies {
    stream: Mutex<UnixStream>,
    patience: Duration,
}

impl Replies {
    /// Sends these pieces one after the other, with no other reply in between.
    pub(crate) fn send(&self, pieces: &[&[u8]]) -> io::Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let sent = pieces.iter().try_for_each(|piece| write_all(&stream, piece, began, self.patience));
        if sent.is_err() {
            // Half a reply may be out: nothing that follows would be understood.
            let _ = stream.shutdown(Shutdown::Both);
        }
        sent
    }
}

/// Serves a client until it leaves.
///
/// # Errors
/// If it breaks the protocol or is gone.
pub(crate) fn run(
    stream: UnixStream,
    volume: &Arc<Volume>,
    budget: &Arc<Budget>,
    place: &Arc<Place>,
    patience: Patience,
) -> io::Result<()> {
    stream.set_write_timeout(Some(patience.reply))?;
    stream.set_read_timeout(Some(NBD_CLIENT_TIMEOUT))?;
    let Some(session) = negotiate(&stream, volume.bytes())? else { return Ok(()) };
    let replies = Arc::new(Replies { stream: Mutex::new(stream.try_clone()?), patience: patience.reply });
    let (sender, receiver) = sync_channel(NBD_QUEUE_MAX);
    let receiver = Arc::new(Mutex::new(receiver));
    let mut workers = Vec::new();
    let mut result = Ok(());
    for _ in 0..NBD_WORKERS {
        let (receiver, replies, volume) = (Arc::clone(&receiver), Arc::clone(&replies), Arc::clone(volume));
        let thread = std::thread::Builder::new().name("disk-worker".into());
        match thread.spawn(move || work(&receiver, &replies, &volume, session)) {
            Ok(worker) => workers.push(worker),
            Err(error) => result = Err(error),
        }
    }
    if !workers.is_empty() {
        let reading = Reading { stream: &stream, session, disk_bytes: volume.bytes(), place };
        result = read_requests(&reading, &Allowance::new(budget), patience.payload, &sender);
    }
    // The workers end once they have answered what is queued; only then is the connection closed.
    drop(sender);
    for worker in workers {
        let _ = worker.join();
    }
    let _ = stream.shutdown(Shutdown::Both);
    result
}

fn negotiate(mut stream: &UnixStream, disk_bytes: u64) -> io::Result<Option<Session>> {
    stream.write_all(&handshake::greeting())?;
    let mut flags = [0; CLIENT_FLAGS_BYTES];
    stream.read_exact(&mut flags)?;
    let mut handshake = Handshake::new(disk_bytes, flags).map_err(violation)?;
    loop {
        let mut head = [0; OPTION_HEAD_BYTES];
        stream.read_exact(&mut head)?;
        let (number, bytes) = handshake::parse_option_head(&head).map_err(violation)?;
        let mut data = vec![0; bytes.min(NBD_OPTION_BYTES_MAX) as usize];
        if bytes > NBD_OPTION_BYTES_MAX {
            // One that is much too long is no mistake to be gracious about.
            if bytes > NBD_OPTION_BYTES_MAX * 16 {
                return Err(violation(Violation("an option longer than any")));
            }
            io::copy(&mut stream.take(u64::from(bytes)), &mut io::sink())?;
            stream.write_all(&handshake::too_big(number))?;
            continue;
        }
        stream.read_exact(&mut data)?;
        let (reply, next) = handshake.option(number, &data).map_err(violation)?;
        stream.write_all(&reply)?;
        match next {
            Next::Option => {}
            Next::Requests(session) => return Ok(Some(session)),
            Next::Close => return Ok(None),
        }
    }
}

fn violation(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}

/// Where requests are read from.
struct Reading<'a> {
    stream: &'a UnixStream,
    session: Session,
    disk_bytes: u64,
    place: &'a Arc<Place>,
}

fn read_requests(
    from: &Reading<'_>,
    memory: &Allowance,
    patience: Duration,
    jobs: &SyncSender<Job>,
) -> io::Result<()> {
    let begun = Cell::new(None);
    let patient = Patient::new(from.stream, patience, &begun)?;
    let mut reader = BufReader::with_capacity(NBD_READ_BUFFER_BYTES, patient);
    loop {
        let mut head = [0; REQUEST_BYTES];
        // Before it a client may be silent for as long as it likes.
        if reader.read(&mut head[..1])? == 0 {
            return Ok(());
        }
        let in_flight = from.place.begin();
        begun.set(Some(Instant::now()));
        reader.read_exact(&mut head[1..])?;
        let request = Request::parse(&head).map_err(violation)?;
        let action = request.action(from.session, from.disk_bytes);
        if action == Ok(Action::Disconnect) {
            return Ok(());
        }
        let loan = memory.borrow(request.memory_bytes());
        // Waiting for memory was not the client's doing.
        begun.set(Some(Instant::now()));
        let mut data = vec![0; request.payload_bytes() as usize];
        reader.read_exact(&mut data)?;
        begun.set(None);
        if jobs.send(Job { request, action, data, _memory: loan, _in_flight: in_flight }).is_err() {
            // The workers end early only when the client takes no more replies.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

fn work(receiver: &Mutex<Receiver<Job>>, replies: &Replies, volume: &Volume, session: Session) {
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The client is gone; reading from it ends with an error, and with that everything.
        if serve_request::run(&job, replies, volume, session).is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
