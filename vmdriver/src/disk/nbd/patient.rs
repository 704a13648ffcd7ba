//! A client's connection, with a limit on how long what was begun may take, and none on silence between requests.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::limits::{NBD_CLIENT_TIMEOUT, NBD_PAYLOAD_TIMEOUT};

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// To send the rest of what it has begun.
    pub(crate) payload: Duration,
    /// To take in a reply.
    pub(crate) reply: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { payload: NBD_PAYLOAD_TIMEOUT, reply: NBD_CLIENT_TIMEOUT }
    }
}

/// Reads from a client. The connection's own timeout is set to the patience once: that costs no call for each request.
pub(crate) struct Patient<'a> {
    stream: &'a UnixStream,
    patience: Duration,
    /// Since when the rest of a request is waited for.
    begun: &'a Cell<Option<Instant>>,
}

impl<'a> Patient<'a> {
    pub(crate) fn new(
        stream: &'a UnixStream,
        patience: Duration,
        begun: &'a Cell<Option<Instant>>,
    ) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream, patience, begun })
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = self.stream.read(buffer);
            let is_late = self.begun.get().is_some_and(|begun| begun.elapsed() >= self.patience);
            match result {
                // The end comes late as well as early.
                Ok(1..) | Err(_) if is_late => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "a request that was begun and not sent",
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// Writes all of it, or fails once that takes too long, however little the client takes at a time.
pub(crate) fn write_all(
    mut stream: &UnixStream,
    mut bytes: &[u8],
    began: Instant,
    patience: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !bytes.is_empty() && began.elapsed() >= patience {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a reply that is not taken in"));
        }
    }
    Ok(())
}
