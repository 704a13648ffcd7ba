//! Logic: requests as a client sends them, and the rules that each has to keep.

use crate::limits::NBD_REQUEST_BYTES_MAX;

use super::handshake::{Session, Violation};
use super::wire::{Errno, MAGIC_REQUEST, command, flag};

/// Length of a request's head.
pub(crate) const REQUEST_BYTES: usize = 28;

/// A request's head. Data follow it if it is a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    flags: u16,
    command: u16,
    /// The client's name for it, repeated in the reply.
    pub(crate) cookie: u64,
    /// Where it begins.
    pub(crate) offset: u64,
    /// How long the range is.
    pub(crate) bytes: u32,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Read { in_one_chunk: bool },
    Write { durable: bool },
    Zero { durable: bool, allocate: bool },
    Trim { durable: bool },
    Flush,
    Cache,
    BlockStatus { one: bool },
    Disconnect,
}

impl Request {
    /// Takes a head apart.
    ///
    /// # Errors
    /// If it is not one, or a write too long to be taken in: what follows then can't be told any more.
    pub(crate) fn parse(head: &[u8; REQUEST_BYTES]) -> Result<Self, Violation> {
        let [m0, m1, m2, m3, f0, f1, c0, c1, rest @ ..] = *head;
        if u32::from_be_bytes([m0, m1, m2, m3]) != MAGIC_REQUEST {
            return Err(Violation("a request without its magic number"));
        }
        let [k0, k1, k2, k3, k4, k5, k6, k7, rest @ ..] = rest;
        let [o0, o1, o2, o3, o4, o5, o6, o7, b0, b1, b2, b3] = rest;
        let request = Self {
            flags: u16::from_be_bytes([f0, f1]),
            command: u16::from_be_bytes([c0, c1]),
            cookie: u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            bytes: u32::from_be_bytes([b0, b1, b2, b3]),
        };
        if request.payload_bytes() > NBD_REQUEST_BYTES_MAX {
            return Err(Violation("a write longer than the server said that it takes"));
        }
        Ok(request)
    }

    /// How many bytes of data follow the head.
    pub(crate) fn payload_bytes(&self) -> u32 {
        if self.command == command::WRITE { self.bytes } else { 0 }
    }

    /// How many bytes of memory it takes to carry it out.
    pub(crate) fn memory_bytes(&self) -> u32 {
        match self.command {
            command::READ | command::WRITE => self.bytes.min(NBD_REQUEST_BYTES_MAX),
            _ => 0,
        }
    }

    /// What it asks for, if it may.
    ///
    /// # Errors
    /// The error that the client is answered.
    pub(crate) fn action(&self, session: Session, disk_bytes: u64) -> Result<Action, Errno> {
        let (action, allowed) = self.kind()?;
        if self.flags & !allowed != 0 {
            return Err(Errno::Invalid);
        }
        if matches!(action, Action::Disconnect | Action::Flush) {
            return Ok(action);
        }
        let end = self.offset.checked_add(u64::from(self.bytes)).ok_or(Errno::Invalid)?;
        if end > disk_bytes {
            let grows = matches!(action, Action::Write { .. } | Action::Zero { .. });
            return Err(if grows { Errno::NoSpace } else { Errno::Invalid });
        }
        match action {
            Action::Read { .. } if self.bytes > NBD_REQUEST_BYTES_MAX => Err(Errno::Overflow),
            Action::Read { in_one_chunk: true } if !session.structured => Err(Errno::Invalid),
            Action::BlockStatus { .. } if !session.block_status || self.bytes == 0 => Err(Errno::Invalid),
            // Zeros that take their place on the disk are written one by one.
            Action::Zero { allocate: true, .. } if self.has(flag::FAST_ZERO) => Err(Errno::NotSupported),
            _ => Ok(action),
        }
    }

    fn kind(&self) -> Result<(Action, u16), Errno> {
        let durable = self.has(flag::FUA);
        Ok(match self.command {
            // A client may set FUA anywhere, where it means nothing.
            command::READ => {
                let in_one_chunk = self.has(flag::DONT_FRAGMENT);
                (Action::Read { in_one_chunk }, flag::DONT_FRAGMENT | flag::FUA)
            }
            command::WRITE => (Action::Write { durable }, flag::FUA),
            command::DISCONNECT => (Action::Disconnect, u16::MAX),
            command::FLUSH => (Action::Flush, flag::FUA),
            command::TRIM => (Action::Trim { durable }, flag::FUA),
            command::CACHE => (Action::Cache, flag::FUA),
            command::WRITE_ZEROES => {
                let allocate = self.has(flag::NO_HOLE);
                (Action::Zero { durable, allocate }, flag::FUA | flag::NO_HOLE | flag::FAST_ZERO)
            }
            command::BLOCK_STATUS => {
                let one = self.has(flag::REQUEST_ONE);
                (Action::BlockStatus { one }, flag::REQUEST_ONE | flag::FUA)
            }
            _ => return Err(Errno::Invalid),
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
