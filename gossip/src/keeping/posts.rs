//! Messages between keepers: one stream for each peer and direction, on the bulk connection. What can't be sent is
//! lost; the keeper says it again, or something newer.

use std::sync::Arc;

use quinn::{RecvStream, SendStream};
use sustain_proto::NodeId;
use sustain_proto::wire::Lane;
use sustain_store::error_chain;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Inlet;
use crate::keeper::{Event, Message, codec};
use crate::member::Member;
use crate::pump;

/// Bytes before each message: how many it has.
const LENGTH_BYTES: usize = 4;

/// Messages go before bytes of packs on their connection, which have 0.
const MESSAGE_PRIORITY: i32 = 2;

/// Sends one peer's messages in turn.
pub(crate) async fn send(member: Arc<Member>, peer: NodeId, mut outbox: mpsc::Receiver<Message>) {
    let mut stream = None;
    while let Some(message) = outbox.recv().await {
        let frame = match codec::encode(&message) {
            Ok(body) => [&(body.len() as u32).to_le_bytes()[..], &body].concat(),
            Err(error) => {
                tracing::warn!(peer = %peer.short(), error = error_chain(&error), "a message can't be sent");
                continue;
            }
        };
        // The other side may have started anew meanwhile: then this stream has ended, and another one does.
        for _ in 0..2 {
            if stream.is_none() {
                stream = open(&member, peer).await;
            }
            let Some(open) = &mut stream else { break };
            if write(&member, open, &frame).await {
                break;
            }
            stream = None;
        }
    }
}

async fn open(member: &Member, peer: NodeId) -> Option<SendStream> {
    let connection = member.links.get(peer, Lane::Bulk).await.ok()?;
    let stream = timeout(member.request_timeout(), connection.open_uni()).await.ok()?.ok()?;
    // Fails only on a closed stream.
    let _ = stream.set_priority(MESSAGE_PRIORITY);
    Some(stream)
}

async fn write(member: &Member, stream: &mut SendStream, frame: &[u8]) -> bool {
    let mut rest = frame;
    while !rest.is_empty() {
        match timeout(member.stall_timeout(), stream.write(rest)).await {
            Ok(Ok(bytes)) => rest = &rest[bytes..],
            _ => return false,
        }
    }
    true
}

/// Takes a peer's messages from a stream. What comes too fast waits on its way.
pub(crate) async fn take(member: Arc<Member>, peer: NodeId, mut stream: RecvStream) {
    loop {
        let mut length = [0; LENGTH_BYTES];
        if stream.read_exact(&mut length).await.is_err() {
            return;
        }
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > Lane::Bulk.frame_bytes_max() {
            tracing::debug!(peer = %peer.short(), bytes, "a message is too long");
            return;
        }
        let Ok(room) = member.keeping.room.clone().acquire_many_owned(bytes as u32).await else { return };
        let (body, end) = pump::fill(&mut stream, bytes, member.stall_timeout()).await;
        if end.is_err() {
            return;
        }
        match codec::decode(&body) {
            // Bytes are asked for on streams of their own.
            Ok(Message::Ask { .. } | Message::Grant { .. } | Message::Refuse { .. }) => return,
            Ok(message) => {
                let event = Event::Message { from: peer, message };
                if member.keeping.messages.send(Inlet::Heard { event, _room: room }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(peer = %peer.short(), error = error_chain(&error), "a message was refused");
                return;
            }
        }
    }
}
