//! Fetches one pack from one peer, from the byte on where an earlier transfer stopped.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use sustain_proto::wire::{Request, Response};
use sustain_proto::{NodeId, PackId, PackRef};
use sustain_store::{ImportError, PackReceiver};

use crate::error::{ErrorKind, RequestError};
use crate::exchange::Exchange;
use crate::gather::SharedProgress;
use crate::member::Member;
use crate::pump::{self, PumpError};
use sustain_store::error_chain;

/// How a transfer ended.
pub(crate) struct Fetched {
    pub(crate) pack: PackId,
    pub(crate) peer: NodeId,
    /// Bytes that came.
    pub(crate) bytes: u64,
    /// How far the pack ever came, as reported to the progress.
    pub(crate) counted: u64,
    pub(crate) outcome: Outcome,
}

/// What became of the pack.
pub(crate) enum Outcome {
    /// It is synced here.
    Whole,
    /// It is not whole yet; another transfer can go on.
    Broken { partial: Option<Box<PackReceiver>>, reason: String },
    /// All of it came, and it is not the pack.
    Wrong { reason: String },
    /// This node's store can't take it.
    Store { kind: ErrorKind, source: Box<dyn Error + Send + Sync> },
}

/// Fetches a pack. `partial` is what came before, `counted` how far the progress was told.
pub(crate) async fn fetch(
    member: &Member,
    peer: NodeId,
    pack: PackRef,
    partial: Option<Box<PackReceiver>>,
    counted: u64,
    progress: &SharedProgress,
) -> Fetched {
    let mut fetched = Fetched { pack: pack.id, peer, bytes: 0, counted, outcome: Outcome::Whole };
    fetched.outcome = transfer(member, peer, pack, partial, &mut fetched, progress).await;
    fetched
}

async fn transfer(
    member: &Member,
    peer: NodeId,
    pack: PackRef,
    partial: Option<Box<PackReceiver>>,
    fetched: &mut Fetched,
    progress: &SharedProgress,
) -> Outcome {
    let receiver = match partial {
        Some(receiver) => *receiver,
        None => {
            let store = member.store.clone();
            match member.tasks.blocking(move || store.receive_pack(pack.id, pack.bytes)).await {
                Ok(Ok(receiver)) => receiver,
                Ok(Err(error)) => return store_failure(error),
                Err(_) => return interrupted(),
            }
        }
    };
    let offset = receiver.written();
    let ends = pack.bytes.saturating_sub(offset);
    let mut stream = match ask(member, peer, pack, offset, ends, member.request_timeout()).await {
        Ok(stream) => stream,
        Err(error) => {
            return Outcome::Broken { partial: Some(Box::new(receiver)), reason: error_chain(&error) };
        }
    };
    let mut position = offset;
    let (bytes, best) = (&mut fetched.bytes, &mut fetched.counted);
    let moved = |more: u64| {
        *bytes += more;
        position += more;
        if position > *best {
            progress.advance(position - *best);
            *best = position;
        }
    };
    let (stall, left) = (member.stall_timeout(), pack.bytes.saturating_sub(offset));
    let pumped = pump::receive(&member.tasks, receiver, left, &mut stream, stall, moved).await;
    let receiver = match pumped {
        (Some(receiver), Ok(())) if receiver.written() == pack.bytes => receiver,
        (_, Err(PumpError::Write(error))) => return store_failure(error),
        (partial, Err(error)) => {
            return Outcome::Broken { partial: partial.map(Box::new), reason: error_chain(&error) };
        }
        (partial, Ok(())) => {
            return Outcome::Broken {
                partial: partial.map(Box::new),
                reason: "the pack came short".to_owned(),
            };
        }
    };
    match member.tasks.blocking(move || receiver.finish()).await {
        Ok(Ok(_)) => Outcome::Whole,
        Ok(Err(error @ (ImportError::PackDamaged { .. } | ImportError::PackTooLarge { .. }))) => {
            Outcome::Wrong { reason: error_chain(&error) }
        }
        Ok(Err(error)) => store_failure(error),
        Err(_) => interrupted(),
    }
}

fn interrupted() -> Outcome {
    Outcome::Broken { partial: None, reason: "the work with the store was interrupted".to_owned() }
}

fn store_failure(error: ImportError) -> Outcome {
    Outcome::Store { kind: error.kind().into(), source: Box::new(error) }
}

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
        match exchange.answer(&mut receive, request.lane().frame_bytes_max()).await? {
            Response::Pack { bytes } if bytes == pack.bytes => Ok(receive),
            Response::Pack { bytes } => {
                Err(exchange.improper(format!("its pack has {bytes} bytes instead of {}", pack.bytes)))
            }
            _ => Err(exchange.improper("another answer was expected")),
        }
    };
    exchange.within(limit, work).await
}
