//! As much of HTTP/1.1 as the counter needs: heads without bodies, and answers in JSON.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::CLIENT_TIMEOUT;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;

pub enum Head {
    Whole(String),
    Closed,
    TooLong,
}

/// Reads up to the empty line; what follows stays in `pending` for the next request. The whole head has
/// to arrive within one time-out, so that a client can't hold a place by sending a byte at a time.
pub fn read_head(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<Head> {
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    let mut buffer = [0_u8; 1_024];
    loop {
        if let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&pending[..end]).into_owned();
            pending.drain(..end + 4);
            return Ok(Head::Whole(head));
        }
        if pending.len() > HEAD_BYTES_MAX {
            return Ok(Head::TooLong);
        }
        if Instant::now() >= deadline {
            return Ok(Head::Closed);
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(Head::Closed),
            bytes => pending.extend_from_slice(&buffer[..bytes]),
        }
    }
}

pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    query: &'a str,
    pub keep_alive: bool,
}

impl<'a> Request<'a> {
    pub fn parse(head: &'a str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || !target.starts_with('/') || !version.starts_with("HTTP/1.") {
            return None;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut keep_alive = version != "HTTP/1.0";
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("connection") {
                keep_alive = value.eq_ignore_ascii_case("keep-alive");
            }
            // Nothing here takes a body; one that is announced would be read as the next request.
            let has_body = name.eq_ignore_ascii_case("content-length") && value != "0";
            if has_body || name.eq_ignore_ascii_case("transfer-encoding") {
                keep_alive = false;
            }
        }
        Some(Self { method, path, query, keep_alive })
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }
}

pub fn respond(stream: &mut TcpStream, status: u16, body: &str, keep_alive: bool) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let bytes = body.len();
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\
         Cache-Control: no-store\r\nConnection: {connection}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes())
}
