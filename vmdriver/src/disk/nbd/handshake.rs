//! Logic: the negotiation before the first request: what each option of a client is answered.

use crate::limits::{NBD_NAME_BYTES_MAX, NBD_OPTIONS_MAX, NBD_REQUEST_BYTES_MAX};

use super::wire::{self, answer, info, option};

/// Length of the client's first message, its flags.
pub(crate) const CLIENT_FLAGS_BYTES: usize = 4;
/// Length of an option's head.
pub(crate) const OPTION_HEAD_BYTES: usize = 16;

/// The export's name. The empty name means it too.
pub(crate) const EXPORT_NAME: &str = "disk0";

const DESCRIPTION: &str = "a disk of a sustained service";
/// Requests need no alignment; whole blocks spare a look at what is below.
const BLOCK_BYTES_PREFERRED: u32 = 4_096;

/// A client that breaks the protocol; its connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client breaks the protocol: {0}")]
pub(crate) struct Violation(pub(crate) &'static str);

/// What both sides agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Session {
    /// Replies to reads are structured.
    pub(crate) structured: bool,
    /// Block status may be asked for.
    pub(crate) block_status: bool,
}

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another option.
    Option,
    /// Requests.
    Requests(Session),
    /// The end.
    Close,
}

/// One client's negotiation.
#[derive(Debug)]
pub(crate) struct Handshake {
    disk_bytes: u64,
    no_zeroes: bool,
    session: Session,
    options: usize,
}

/// What the server says first.
pub(crate) fn greeting() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(18);
    bytes.extend(wire::MAGIC.to_be_bytes());
    bytes.extend(wire::MAGIC_OPTION.to_be_bytes());
    bytes.extend((wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).to_be_bytes());
    bytes
}

/// An option's number and the length of its data.
pub(crate) fn parse_option_head(head: &[u8; OPTION_HEAD_BYTES]) -> Result<(u32, u32), Violation> {
    let mut fields = Fields(head);
    if fields.u64() != Some(wire::MAGIC_OPTION) {
        return Err(Violation("an option without its magic number"));
    }
    let (number, bytes) = (fields.u32().unwrap_or_default(), fields.u32().unwrap_or_default());
    Ok((number, bytes))
}

/// The answer to an option whose data are longer than any that this server takes, and are passed over.
pub(crate) fn too_big(number: u32) -> Vec<u8> {
    reply(number, answer::ERR_TOO_BIG, b"option too long")
}

impl Handshake {
    /// Begins with the client's flags.
    pub(crate) fn new(disk_bytes: u64, client_flags: [u8; CLIENT_FLAGS_BYTES]) -> Result<Self, Violation> {
        let flags = u32::from_be_bytes(client_flags);
        let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        if flags & !known != 0 {
            return Err(Violation("flags that the server did not offer"));
        }
        let no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
        Ok(Self { disk_bytes, no_zeroes, session: Session::default(), options: 0 })
    }

    /// Answers one option.
    pub(crate) fn option(&mut self, number: u32, data: &[u8]) -> Result<(Vec<u8>, Next), Violation> {
        self.options += 1;
        if self.options > NBD_OPTIONS_MAX {
            return Err(Violation("more options than anybody needs"));
        }
        Ok(match number {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => (reply(number, answer::ACK, &[]), Next::Close),
            option::LIST => (list(number, data), Next::Option),
            option::INFO | option::GO => self.info(number, data),
            option::STRUCTURED_REPLY => (self.structured_reply(number, data), Next::Option),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                (self.meta_context(number, data), Next::Option)
            }
            _ => (reply(number, answer::ERR_UNSUPPORTED, b"unknown option"), Next::Option),
        })
    }

    /// The oldest way into the requests, which knows no refusal but closing the connection.
    fn export_name(&self, data: &[u8]) -> Result<(Vec<u8>, Next), Violation> {
        if !is_ours(data) {
            return Err(Violation("an export that is not there"));
        }
        let mut bytes = self.disk_bytes.to_be_bytes().to_vec();
        bytes.extend(wire::TRANSMISSION_FLAGS.to_be_bytes());
        if !self.no_zeroes {
            bytes.extend([0; 124]);
        }
        Ok((bytes, Next::Requests(self.session)))
    }

    fn info(&self, number: u32, data: &[u8]) -> (Vec<u8>, Next) {
        let Some((name, wanted)) = parse_info(data) else {
            return (reply(number, answer::ERR_INVALID, b"malformed"), Next::Option);
        };
        if !is_ours(name) {
            return (reply(number, answer::ERR_UNKNOWN, b"no such export"), Next::Option);
        }
        let mut bytes = Vec::new();
        let mut export = info::EXPORT.to_be_bytes().to_vec();
        export.extend(self.disk_bytes.to_be_bytes());
        export.extend(wire::TRANSMISSION_FLAGS.to_be_bytes());
        bytes.extend(reply(number, answer::INFO, &export));
        let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, BLOCK_BYTES_PREFERRED, NBD_REQUEST_BYTES_MAX] {
            sizes.extend(size.to_be_bytes());
        }
        bytes.extend(reply(number, answer::INFO, &sizes));
        for (kind, text) in [(info::NAME, EXPORT_NAME), (info::DESCRIPTION, DESCRIPTION)] {
            if wanted.contains(&kind) {
                let data = [&kind.to_be_bytes(), text.as_bytes()].concat();
                bytes.extend(reply(number, answer::INFO, &data));
            }
        }
        bytes.extend(reply(number, answer::ACK, &[]));
        (bytes, if number == option::GO { Next::Requests(self.session) } else { Next::Option })
    }

    fn structured_reply(&mut self, number: u32, data: &[u8]) -> Vec<u8> {
        if !data.is_empty() {
            return reply(number, answer::ERR_INVALID, b"this option has no data");
        }
        self.session.structured = true;
        reply(number, answer::ACK, &[])
    }

    fn meta_context(&mut self, number: u32, data: &[u8]) -> Vec<u8> {
        let is_set = number == option::SET_META_CONTEXT;
        if is_set {
            self.session.block_status = false;
            if !self.session.structured {
                return reply(number, answer::ERR_INVALID, b"structured replies first");
            }
        }
        let Some((name, queries)) = parse_meta(data) else {
            return reply(number, answer::ERR_INVALID, b"malformed");
        };
        if !is_ours(name) {
            return reply(number, answer::ERR_UNKNOWN, b"no such export");
        }
        let context = wire::CONTEXT_NAME.as_bytes();
        let lists_all = !is_set && (queries.is_empty() || queries.contains(&b"base:".as_slice()));
        let mut bytes = Vec::new();
        if lists_all || queries.contains(&context) {
            let id = if is_set { wire::CONTEXT_ID } else { 0 };
            bytes.extend(reply(number, answer::META_CONTEXT, &[&id.to_be_bytes(), context].concat()));
            self.session.block_status |= is_set;
        }
        bytes.extend(reply(number, answer::ACK, &[]));
        bytes
    }
}

fn is_ours(name: &[u8]) -> bool {
    name.is_empty() || name == EXPORT_NAME.as_bytes()
}

fn list(number: u32, data: &[u8]) -> Vec<u8> {
    if !data.is_empty() {
        return reply(number, answer::ERR_INVALID, b"this option has no data");
    }
    let mut entry = (EXPORT_NAME.len() as u32).to_be_bytes().to_vec();
    entry.extend(EXPORT_NAME.as_bytes());
    [reply(number, answer::SERVER, &entry), reply(number, answer::ACK, &[])].concat()
}

fn parse_info(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.name()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<Vec<_>>>()?;
    fields.0.is_empty().then_some((name, wanted))
}

fn parse_meta(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut fields = Fields(data);
    let name = fields.name()?;
    let count = fields.u32()?;
    // Ends at the first that is not there, so a count that lies costs nothing.
    let queries = (0..count).map(|_| fields.name()).collect::<Option<Vec<_>>>()?;
    fields.0.is_empty().then_some((name, queries))
}

fn reply(number: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = wire::MAGIC_OPTION_REPLY.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Takes fields off the front of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let bytes = usize::try_from(self.u32()?).ok()?;
        if bytes > NBD_NAME_BYTES_MAX { None } else { self.take(bytes) }
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
