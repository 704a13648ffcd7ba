//! A small NBD client: simple replies, one request at a time, errors as numbers.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const ZERO: u16 = 6;

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3_u32.to_be_bytes())?;
        // By the oldest option, with the export's name.
        stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x05disk0")?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        Ok(Self { stream })
    }

    pub(crate) fn send(&mut self, command: u16, cookie: u64, offset: u64, bytes: u32) -> io::Result<()> {
        let mut head = 0x2560_9513_u32.to_be_bytes().to_vec();
        head.extend([0, 0]);
        head.extend(command.to_be_bytes());
        head.extend(cookie.to_be_bytes());
        head.extend(offset.to_be_bytes());
        head.extend(bytes.to_be_bytes());
        self.stream.write_all(&head)
    }

    /// The error number in a reply.
    pub(crate) fn reply(&mut self) -> io::Result<u32> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        Ok(u32::from_be_bytes(head[4..8].try_into().unwrap()))
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<u32> {
        self.send(WRITE, 1, offset, bytes.len() as u32)?;
        self.stream.write_all(bytes)?;
        self.reply()
    }

    pub(crate) fn read(&mut self, offset: u64, bytes: usize) -> io::Result<Result<Vec<u8>, u32>> {
        self.send(READ, 2, offset, bytes as u32)?;
        match self.reply()? {
            0 => {
                let mut data = vec![0; bytes];
                self.stream.read_exact(&mut data)?;
                Ok(Ok(data))
            }
            error => Ok(Err(error)),
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<u32> {
        self.send(FLUSH, 3, 0, 0)?;
        self.reply()
    }

    pub(crate) fn zero(&mut self, offset: u64, bytes: u32) -> io::Result<u32> {
        self.send(ZERO, 4, offset, bytes)?;
        self.reply()
    }
}
