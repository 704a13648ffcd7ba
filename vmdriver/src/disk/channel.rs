//! Control messages over a socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::{encode, length};

/// Sends a message.
pub(crate) fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let bytes = encode(message).ok_or_else(|| io::Error::other("the message is too long"))?;
    stream.write_all(&bytes)
}

/// Receives a message; none if the other side has closed the connection.
pub(crate) fn receive<T: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    if stream.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..])?;
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let length = length(head).ok_or_else(|| invalid("the message is too long".to_owned()))?;
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| invalid(error.to_string()))
}
