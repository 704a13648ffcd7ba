//! What a program writes to its standard output, read without a thread that could outlive it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The end of a pipe that is read from.
#[derive(Debug)]
pub(super) struct Output {
    /// None once the last writer is gone.
    pipe: Option<File>,
}

impl Output {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe: Some(File::from(pipe)) })
    }

    /// Waits at most so long for something to be there, and reads it: how many bytes, 0 if nothing came. None once
    /// there will be no more.
    pub(super) fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
        let Some(pipe) = &mut self.pipe else { return Ok(None) };
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut descriptors = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Some(0)),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match pipe.read(buffer) {
            Ok(0) => {
                self.pipe = None;
                Ok(None)
            }
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(Some(0))
            }
            Err(error) => Err(error),
        }
    }
}
