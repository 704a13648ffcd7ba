//! A file in the guest, read and written in parts.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::limits::AGENT_PART_BYTES;

use super::connection::{AgentError, Connection};

/// A file that the agent has open for us. It stays open until [`GuestFile::close`] or the agent's end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuestFile {
    handle: i64,
}

impl GuestFile {
    /// Opens a file; the mode is that of C's `fopen`.
    pub(crate) fn open(
        connection: &mut Connection,
        path: &str,
        mode: &str,
        timeout: Duration,
    ) -> Result<Self, AgentError> {
        let command = "guest-file-open";
        let answer = connection.call(command, &json!({ "path": path, "mode": mode }), timeout)?;
        let handle = answer.as_i64().ok_or(AgentError::Nonsense { command, what: "no handle" })?;
        Ok(Self { handle })
    }

    /// Writes all of a part.
    pub(crate) fn write(
        self,
        connection: &mut Connection,
        mut part: &[u8],
        timeout: Duration,
    ) -> Result<(), AgentError> {
        let command = "guest-file-write";
        while !part.is_empty() {
            let arguments = json!({ "handle": self.handle, "buf-b64": STANDARD.encode(part) });
            let answer = connection.call(command, &arguments, timeout)?;
            let count = answer["count"].as_u64().and_then(|count| usize::try_from(count).ok());
            let written = count.filter(|count| (1..=part.len()).contains(count));
            let written = written.ok_or(AgentError::Nonsense { command, what: "an impossible count" })?;
            part = &part[written..];
        }
        Ok(())
    }

    /// Reads what is there next; empty at the end. Once more may be there later.
    pub(crate) fn read(self, connection: &mut Connection, timeout: Duration) -> Result<Vec<u8>, AgentError> {
        let command = "guest-file-read";
        let arguments = json!({ "handle": self.handle, "count": AGENT_PART_BYTES });
        let answer = connection.call(command, &arguments, timeout)?;
        let text = answer["buf-b64"].as_str().unwrap_or_default();
        let bytes = STANDARD.decode(text);
        let bytes = bytes.map_err(|_| AgentError::Nonsense { command, what: "bytes that are not base64" })?;
        if bytes.len() > AGENT_PART_BYTES {
            return Err(AgentError::Nonsense { command, what: "more bytes than were asked for" });
        }
        Ok(bytes)
    }

    /// Closes the file; writes what the agent still holds back.
    pub(crate) fn close(self, connection: &mut Connection, timeout: Duration) -> Result<(), AgentError> {
        connection.tell("guest-file-close", json!({ "handle": self.handle }), timeout)
    }
}

/// A number of an answer that must be there.
pub(super) fn number(answer: &Value, key: &'static str, command: &'static str) -> Result<i64, AgentError> {
    answer[key].as_i64().ok_or(AgentError::Nonsense { command, what: "a number is missing" })
}
