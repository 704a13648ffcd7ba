//! A [`BlockSource`] that asks the node, from the disk's process.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::limits::{BLOCK_CONNECTIONS_IDLE_MAX, BLOCK_READ_TIMEOUT};

use super::wire::{self, Head};
use super::{BlockSource, ChunkContent, Unavailable};

/// Each request has a connection of its own while it lasts.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    disk_bytes: u64,
    idle: Mutex<Vec<UnixStream>>,
}

impl Client {
    /// Asks at this socket.
    pub(crate) fn new(socket: PathBuf, disk_bytes: u64) -> Self {
        Self { socket, disk_bytes, idle: Mutex::new(Vec::new()) }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(BLOCK_READ_TIMEOUT))?;
        stream.set_write_timeout(Some(BLOCK_READ_TIMEOUT))?;
        stream.write_all(&wire::HELLO)?;
        let mut hello = [0; wire::HELLO.len()];
        stream.read_exact(&mut hello)?;
        if hello != wire::HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the node speaks another version"));
        }
        Ok(stream)
    }

    fn ask(
        stream: &mut UnixStream,
        request: wire::Request,
        buffer: &mut [u8],
    ) -> io::Result<Result<Option<ChunkContent>, Unavailable>> {
        stream.write_all(&request.encode())?;
        let mut head = [0; wire::REPLY_HEAD_BYTES];
        stream.read_exact(&mut head)?;
        match wire::parse_head(head, buffer.len()) {
            Some(Head::Zero) => Ok(Ok(Some(ChunkContent::Zero))),
            Some(Head::Data) => stream.read_exact(buffer).map(|()| Ok(Some(ChunkContent::Data))),
            Some(Head::Later) => Ok(Ok(None)),
            Some(Head::Unavailable(bytes)) => {
                let mut reason = vec![0; bytes];
                stream.read_exact(&mut reason)?;
                Ok(Err(Unavailable { reason: String::from_utf8_lossy(&reason).into_owned() }))
            }
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "an impossible reply")),
        }
    }
}

impl Client {
    fn request(
        &self,
        request: wire::Request,
        buffer: &mut [u8],
    ) -> Result<Option<ChunkContent>, Unavailable> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let failed = |error: io::Error| Unavailable::new(format_args!("asking the node: {error}"));
        let mut stream = match idle {
            Some(stream) => stream,
            None => self.connect().map_err(failed)?,
        };
        let content = Self::ask(&mut stream, request, buffer).map_err(failed)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < BLOCK_CONNECTIONS_IDLE_MAX {
            idle.push(stream);
        }
        content
    }
}

impl BlockSource for Client {
    fn bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        let content = self.request(wire::Request { chunk, prefetch: false }, buffer)?;
        content.ok_or_else(|| Unavailable::new("the node puts off what somebody waits for"))
    }

    fn prefetch_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<Option<ChunkContent>, Unavailable> {
        self.request(wire::Request { chunk, prefetch: true }, buffer)
    }
}
