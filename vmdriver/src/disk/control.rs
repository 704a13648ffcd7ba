//! Logic: what the node says to the disk's process, and what it answers.
//!
//! Each message is a length (u32, little endian) and as much JSON. One is answered before the next is
//! read. All can be said again when the answer was lost with the process: they change nothing twice.

use serde::{Deserialize, Serialize};

use crate::limits::CONTROL_MESSAGE_BYTES_MAX;

/// Raised when a message changes its meaning.
pub(crate) const CONTROL_VERSION: u32 = 1;

/// What the node asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// The first message: is it the same version?
    Hello {
        version: u32,
    },
    Status,
    /// Freeze the layer with this number, which is active unless this was asked for before.
    Freeze {
        layer: u64,
    },
    /// All frozen layers up to this one may be folded.
    Fold {
        layer: u64,
    },
    /// Fetch what is not here yet, from now on.
    Prefetch,
    /// End, in good order.
    Stop,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Reply {
    Done,
    Status(DiskStatus),
    Frozen {
        active: u64,
    },
    /// Not now: frozen layers wait to be folded.
    Busy,
    Refused {
        reason: String,
    },
}

/// How a disk is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskStatus {
    /// The layer that takes the writes. Each freeze raises it.
    pub active: u64,
    /// Layers that are frozen and not folded yet, the oldest first.
    pub frozen: Vec<u64>,
    /// Bytes written or zeroed since the last freeze, in whole blocks.
    pub dirty_bytes: u64,
    /// Bytes in the layer that the frozen ones are folded into.
    pub lower_bytes: u64,
    /// Chunks of a restored disk that are on this host; 0 if it does not come from a snapshot.
    pub chunks_here: u64,
    /// Chunks of a restored disk in all; 0 if it does not come from a snapshot.
    pub chunks: u64,
    /// For how long the read has waited for a chunk that waits longest, in ms; none if none waits.
    pub waiting_ms: Option<u64>,
    /// Why something can't be done at present, although it is tried again.
    pub trouble: Option<String>,
}

/// A message as it is sent; none if it is too long.
pub(crate) fn encode<T: Serialize>(message: &T) -> Option<Vec<u8>> {
    let text = serde_json::to_vec(message).ok()?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= CONTROL_MESSAGE_BYTES_MAX)?;
    Some([&length.to_le_bytes(), text.as_slice()].concat())
}

/// How long the message is that begins like this; none if it is too long.
pub(crate) fn length(head: [u8; 4]) -> Option<usize> {
    let length = u32::from_le_bytes(head);
    (length <= CONTROL_MESSAGE_BYTES_MAX).then_some(length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_fixed() {
        let text = |message: &Request| String::from_utf8(encode(message).unwrap()[4..].to_vec()).unwrap();
        assert_eq!(text(&Request::Hello { version: 1 }), r#"{"hello":{"version":1}}"#);
        assert_eq!(text(&Request::Freeze { layer: 7 }), r#"{"freeze":{"layer":7}}"#);
        assert_eq!(text(&Request::Fold { layer: 7 }), r#"{"fold":{"layer":7}}"#);
        assert_eq!(text(&Request::Status), r#""status""#);
        assert_eq!(text(&Request::Prefetch), r#""prefetch""#);
        let reply = encode(&Reply::Frozen { active: 8 }).unwrap();
        assert_eq!(reply, b"\x17\0\0\0{\"frozen\":{\"active\":8}}");
        assert_eq!(length([0x17, 0, 0, 0]), Some(0x17));
    }

    #[test]
    fn what_is_too_long_is_refused_by_both_sides() {
        assert_eq!(encode(&Reply::Refused { reason: "x".repeat(1 << 20) }), None);
        assert_eq!(length([0xff; 4]), None);
        assert!(serde_json::from_slice::<Request>(br#"{"unheard-of":1}"#).is_err());
    }
}
