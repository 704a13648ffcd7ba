//! Answers peers that gather: lists of groups, and ranges of pieces.

use std::sync::Arc;

use quinn::SendStream;
use sustain_proto::wire::{Lane, Response};
use sustain_proto::{GroupList, NodeId, Piece, PieceRange, group_count};
use sustain_store::{FragmentError, Fragments, Store, error_chain};
use tokio::sync::mpsc;

use crate::control::respond;
use crate::limits;
use crate::lists::Values;
use crate::member::Member;
use crate::pump::{self, Filled, PumpError, ReadAt, ReadFailure};
use crate::transport::frames;
use crate::transport::quic::STREAM_ABANDONED;

/// Bytes of a piece, if it is here.
fn piece_bytes(store: &Store, piece: &Piece) -> Option<u64> {
    match piece {
        Piece::Pack(id) => store.pack_bytes(id),
        // One that is held, not one that would have to be made.
        Piece::Fragment(id) => Some(fragments(store)?.open(id).ok()?.bytes()),
    }
}

/// The fragments of this node, which its depot has open.
fn fragments(store: &Store) -> Option<Fragments> {
    store.look_at_fragments().ok().flatten()
}

pub(crate) async fn get_groups(
    member: &Arc<Member>,
    peer: NodeId,
    pieces: Vec<Piece>,
    send: &mut SendStream,
) {
    let known = member.clone();
    let Ok(lists) = member.tasks.blocking(move || make_lists(&known, &pieces)).await else { return };
    let lists = match lists {
        Ok(lists) => lists,
        Err(reason) => return respond(Lane::Bulk, send, &Response::refused(reason)).await,
    };
    let counts = lists.iter().map(|list| list.as_ref().map_or(0, |list| list.len() as u32)).collect();
    if !header(member, &Response::Groups { counts }, send).await {
        return;
    }
    for list in lists.into_iter().flatten() {
        if let Err(error) =
            pump::write_all((&mut *send, &member.uplink), list.as_flattened(), member.stall_timeout()).await
        {
            tracing::debug!(peer = %peer.short(), error = error_chain(&error), "lists of groups were not sent");
            return;
        }
    }
    // Fails only on a stream that is finished already.
    let _ = send.finish();
}

/// The lists of these pieces; none for one that is not here, or is damaged here. What is too much is refused before
/// anything is read.
fn make_lists(member: &Member, pieces: &[Piece]) -> Result<Vec<Option<Values>>, String> {
    let bytes = |piece: &Piece| piece_bytes(&member.store, piece);
    let groups: usize = pieces.iter().filter_map(bytes).map(group_count).sum();
    if groups > sustain_proto::limits::MESSAGE_GROUPS_MAX {
        return Err(format!("the pieces have {groups} groups together"));
    }
    Ok(pieces.iter().map(|piece| bytes(piece).and_then(|bytes| list(member, *piece, bytes))).collect())
}

fn list(member: &Member, piece: Piece, bytes: u64) -> Option<Values> {
    if let Some(values) = member.lists.get(&piece) {
        return Some(values);
    }
    let id = match piece {
        Piece::Pack(id) => id,
        // The list of one is kept with it, and is checked when it is opened.
        Piece::Fragment(id) => {
            let reader = fragments(&member.store)?.open(&id).ok()?;
            let values = reader.groups().values();
            // One of a single group is worth none, but is asked for by mistake at most.
            return Some(Arc::new(if values.is_empty() { vec![*id.as_bytes()] } else { values.to_vec() }));
        }
    };
    let values = match member.store.pack_groups(id) {
        Ok(values) => values,
        Err(error) => {
            tracing::debug!(pack = %id.short(), error = error_chain(&error), "a pack could not be read for a peer");
            return None;
        }
    };
    if group_count(bytes) > 1 && GroupList::check(*piece.root(), bytes, values.clone()).is_err() {
        // It stays where it is: single chunks of it may be sound, and who needs one asks for that alone.
        tracing::warn!(pack = %id, "a pack is damaged here: `snapctl verify` or the next scrubbing sets it aside");
        return None;
    }
    let values = Arc::new(values);
    member.lists.put(piece, values.clone());
    Some(values)
}

/// The list of a piece that is sound here.
pub(crate) fn checked_list(member: &Member, piece: Piece) -> Option<GroupList> {
    let bytes = piece_bytes(&member.store, &piece)?;
    if group_count(bytes) == 1 {
        return GroupList::single(*piece.root(), bytes);
    }
    let values = list(member, piece, bytes)?;
    GroupList::check(*piece.root(), bytes, values.to_vec()).ok()
}

pub(crate) async fn get_ranges(
    member: &Member,
    peer: NodeId,
    ranges: Vec<PieceRange>,
    send: &mut SendStream,
) {
    let store = member.store.clone();
    let looked = member.tasks.blocking(move || {
        let is_here = |range: &PieceRange| {
            let bytes = piece_bytes(&store, &range.piece);
            bytes.is_some_and(|bytes| range.offset.saturating_add(range.bytes) <= bytes)
        };
        let here: Vec<bool> = ranges.iter().map(is_here).collect();
        (ranges, here)
    });
    let Ok((mut ranges, here)) = looked.await else { return };
    let mut is_here = here.iter();
    ranges.retain(|_| is_here.next().copied().unwrap_or(false));
    if !header(member, &Response::Ranges { here }, send).await {
        return;
    }
    let (buffers, mut filled) = mpsc::channel::<Filled>(limits::PACK_BUFFERS);
    let store = member.store.clone();
    // Ends by itself when this future is dropped: then nobody takes the buffers.
    drop(member.tasks.blocking(move || read(&store, &ranges, &buffers)));
    match pump::write_filled((&mut *send, &member.uplink), &mut filled, member.stall_timeout()).await {
        // Fails only on a stream that is finished already.
        Ok(()) => drop(send.finish()),
        Err(error) => {
            // A peer that has it from elsewhere takes no more.
            tracing::debug!(peer = %peer.short(), error = error_chain(&error), "ranges were not sent");
            if !matches!(error, PumpError::Stream(_)) {
                // What was sent must not look whole. Fails only on a closed stream.
                let _ = send.reset(STREAM_ABANDONED);
            }
        }
    }
}

fn read(store: &Store, ranges: &[PieceRange], buffers: &mpsc::Sender<Filled>) {
    for range in ranges {
        let part = range.offset..range.offset.saturating_add(range.bytes);
        let done = match open(store, range.piece) {
            Ok(read) => pump::read_all(&*read, part, buffers),
            Err(error) => {
                let _ = buffers.blocking_send(Err(error));
                false
            }
        };
        if !done {
            return;
        }
    }
}

fn open(store: &Store, piece: Piece) -> Result<Box<ReadAt<'static>>, ReadFailure> {
    match piece {
        Piece::Pack(id) => {
            let reader = store.read_pack(id)?;
            Ok(Box::new(move |at, buffer| Ok(reader.read_at(at, buffer)?)))
        }
        Piece::Fragment(id) => {
            let absent = || FragmentError::NotFound { id };
            let reader = store.look_at_fragments()?.ok_or_else(absent)?.open(&id)?;
            Ok(Box::new(move |at, buffer| Ok(reader.read_at(at, buffer)?)))
        }
    }
}

/// Writes an answer that raw bytes follow.
async fn header(member: &Member, response: &Response, send: &mut SendStream) -> bool {
    let write = frames::write(send, response, Lane::Bulk.frame_bytes_max());
    matches!(tokio::time::timeout(member.request_timeout(), write).await, Ok(Ok(())))
}
