//! Answers peers that ask for bytes of parts.

use std::sync::Arc;

use quinn::SendStream;
use sustain_proto::NodeId;
use sustain_proto::wire::{Ask, Denial, Granted, Lane, Response};
use sustain_store::error_chain;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Inlet;
use super::answers::Answer;
use crate::control::respond;
use crate::depot::{Depot, DepotError, PartList};
use crate::keeper::{Event, Pack, Part};
use crate::limits;
use crate::member::Member;
use crate::pump;
use crate::transport::frames;
use crate::transport::quic::STREAM_ABANDONED;

/// Answers one request.
pub(crate) async fn give(member: &Arc<Member>, peer: NodeId, ask: Ask, send: &mut SendStream) {
    let (answer, told) = oneshot::channel();
    let wants_list = ask.wants_list;
    if member.keeping.messages.try_send(Inlet::Asked { from: peer, ask, answer }).is_err() {
        return respond(Lane::Bulk, send, &Response::Denied(Denial::Busy)).await;
    }
    match told.await {
        Ok(Answer::Granted { depot, request, pack, part, range }) => {
            if let Err(reason) = serve(member, &depot, (pack, part, range), wants_list, send).await {
                tracing::debug!(peer = %peer.short(), pack = %part.pack.short(), reason, "bytes were not sent");
                // What was sent must not look whole. Fails only on a closed stream.
                let _ = send.reset(STREAM_ABANDONED);
            }
            member.keeping.tell(Inlet::Event(Event::Served { to: peer, request })).await;
        }
        Ok(Answer::Denied(denial)) => respond(Lane::Bulk, send, &Response::Denied(denial)).await,
        Err(_) => respond(Lane::Bulk, send, &Response::refused("the node is stopping")).await,
    }
}

async fn serve(
    member: &Arc<Member>,
    depot: &Arc<Depot>,
    (pack, part, range): (Pack, Part, (u64, u64)),
    wants_list: bool,
    send: &mut SendStream,
) -> Result<(), String> {
    let list = if wants_list {
        let depot = depot.clone();
        let listed = member.tasks.blocking(move || depot.list(&part, &pack)).await;
        let listed = listed.map_err(|error| error.to_string())?.map_err(|error| error_chain(&error))?;
        listed.ok_or("it is not here")?
    } else {
        PartList { values: Vec::new(), sheet: None }
    };
    let header = Response::Granted(Granted { range, groups: list.values, sheet: list.sheet });
    let write = frames::write(send, &header, Lane::Bulk.frame_bytes_max());
    let written = timeout(member.request_timeout(), write).await;
    written.map_err(|_| "the peer takes nothing")?.map_err(|error| error_chain(&error))?;
    let (buffers, mut filled) = mpsc::channel::<Result<Vec<u8>, DepotError>>(limits::PACK_BUFFERS);
    let depot = depot.clone();
    // Ends by itself when this future is dropped: then nobody takes the buffers.
    drop(member.tasks.blocking(move || {
        let mut sink = |bytes: Vec<u8>| buffers.blocking_send(Ok(bytes)).is_ok();
        if let Err(error) = depot.read(&part, &pack, range.0..range.1, &mut sink) {
            let _ = buffers.blocking_send(Err(error));
        }
    }));
    let mut left = range.1 - range.0;
    while let Some(buffer) = filled.recv().await {
        let buffer = buffer.map_err(|error| error_chain(&error))?;
        left = left.saturating_sub(buffer.len() as u64);
        let ways = (&mut *send, &member.uplink);
        let sent = pump::write_all(ways, &buffer, member.stall_timeout()).await;
        sent.map_err(|error| error_chain(&error))?;
    }
    if left > 0 {
        return Err(format!("{left} bytes could not be read here"));
    }
    // Fails only on a stream that is finished already.
    let _ = send.finish();
    Ok(())
}
