//! A whole conversation with a client that says anything.

use super::handshake::{CLIENT_FLAGS_BYTES, Handshake, Next, OPTION_HEAD_BYTES, Session, parse_option_head};
use super::request::{REQUEST_BYTES, Request};
use crate::limits::NBD_REQUEST_BYTES_MAX;

const DISK_BYTES: u64 = 1 << 30;

/// Reads what the client says as the connection does, without a disk.
pub(crate) fn converse(bytes: &[u8]) {
    let Some((flags, rest)) = bytes.split_first_chunk::<CLIENT_FLAGS_BYTES>() else { return };
    let Ok(mut handshake) = Handshake::new(DISK_BYTES, *flags) else { return };
    let mut rest = rest;
    while let Some((head, after)) = rest.split_first_chunk::<OPTION_HEAD_BYTES>() {
        let Ok((number, length)) = parse_option_head(head) else { return };
        let Some((data, after)) = after.split_at_checked(length as usize) else { return };
        rest = after;
        match handshake.option(number, data) {
            Ok((_, Next::Option)) => {}
            Ok((_, Next::Requests(session))) => return requests(session, rest),
            Ok((_, Next::Close)) | Err(_) => return,
        }
    }
}

fn requests(session: Session, mut rest: &[u8]) {
    while let Some((head, after)) = rest.split_first_chunk::<REQUEST_BYTES>() {
        let Ok(request) = Request::parse(head) else { return };
        if request.action(session, DISK_BYTES).is_ok() {
            assert!(request.memory_bytes() <= NBD_REQUEST_BYTES_MAX, "a request takes more than it may");
        }
        let payload = request.payload_bytes() as usize;
        let Some((_, after)) = after.split_at_checked(payload) else { return };
        rest = after;
    }
}
