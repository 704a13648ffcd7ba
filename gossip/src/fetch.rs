//! Fetches a part of a pack from one peer.

use std::ops::Range;
use std::time::Duration;

use sustain_proto::wire::{Request, Response};
use sustain_proto::{NodeId, PackRef};

use crate::error::RequestError;
use crate::exchange::Exchange;
use crate::member::Member;
use crate::pump;
use sustain_store::error_chain;

/// Reads a part of a pack into memory. It is worth nothing until it is checked. No byte for so long is an error.
pub(crate) async fn read_part(
    member: &Member,
    peer: NodeId,
    pack: PackRef,
    part: Range<u64>,
    patience: Duration,
) -> Result<Vec<u8>, RequestError> {
    let end = part.end.min(pack.bytes);
    let bytes = end.saturating_sub(part.start);
    let mut stream = ask(member, peer, pack, part.start, bytes, patience).await?;
    let room = usize::try_from(bytes).unwrap_or(usize::MAX);
    match pump::fill(&mut stream, room, patience).await {
        (read, Ok(())) => Ok(read),
        (_, Err(error)) => {
            let what = "a request for a part of a pack";
            Err(RequestError::Broken { node: peer, what, reason: error_chain(&error) })
        }
    }
}

/// Asks for so many bytes of a pack from the offset on, which the stream that comes back holds.
async fn ask(
    member: &Member,
    peer: NodeId,
    pack: PackRef,
    offset: u64,
    bytes: u64,
    limit: Duration,
) -> Result<quinn::RecvStream, RequestError> {
    let request = Request::GetPack { id: pack.id, offset, bytes };
    let exchange = Exchange::new(peer, &request);
    let work = async {
        let (mut send, mut receive) = exchange.open(member, &request).await?;
        // Fails only on a stream that is finished already.
        let _ = send.finish();
        match exchange.answer(member, &mut receive, request.lane().frame_bytes_max()).await? {
            Response::Pack { bytes } if bytes == pack.bytes => Ok(receive),
            Response::Pack { bytes } => {
                Err(exchange.improper(format!("its pack has {bytes} bytes instead of {}", pack.bytes)))
            }
            _ => Err(exchange.other_answer(member)),
        }
    };
    exchange.within(limit, work).await
}
