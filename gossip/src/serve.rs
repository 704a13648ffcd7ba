//! Answers the bulk requests of peers from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use quinn::{Connection, RecvStream, SendStream};
use sustain_proto::wire::{HeldFragments, Lane, Request, Response, SnapshotSummary};
use sustain_proto::{Manifest, NodeId, PackId, ServiceName};
use sustain_store::{FragmentError, ReadError, SnapshotInfo, Store};

use crate::control::{respond, take_request};
use crate::gather::known_manifest;
use crate::keeping::{self, posts};
use crate::member::Member;
use crate::pump;
use crate::serve_pieces;
use crate::transport::frames;
use crate::transport::quic::STREAM_ABANDONED;
use sustain_store::error_chain;

/// Parts of packs go before everything else on their connection, which has 0.
const PART_PRIORITY: i32 = 1;

/// Serves a bulk connection that a peer has dialled.
pub(crate) async fn serve(member: &Arc<Member>, peer: NodeId, connection: &Connection) {
    loop {
        tokio::select! {
            streams = connection.accept_bi() => {
                let Ok((send, receive)) = streams else { return };
                let known = member.clone();
                member.tasks.spawn(async move { answer(&known, peer, send, receive).await });
            }
            stream = connection.accept_uni() => {
                let Ok(stream) = stream else { return };
                member.tasks.spawn(posts::take(member.clone(), peer, stream));
            }
        }
    }
}

async fn answer(member: &Arc<Member>, peer: NodeId, mut send: SendStream, mut receive: RecvStream) {
    let Some(request) = take_request(member, peer, Lane::Bulk, &mut send, &mut receive).await else {
        return;
    };
    // It is never closed.
    let Ok(_permit) = member.bulk_served.acquire().await else { return };
    let response = match request {
        Request::GetPack { id, offset, bytes } => {
            return get_pack(member, peer, id, offset..offset.saturating_add(bytes), &mut send).await;
        }
        Request::Ask(ask) => return keeping::give(member, peer, ask, &mut send).await,
        Request::GetGroups { pieces } => {
            return serve_pieces::get_groups(member, peer, pieces, &mut send).await;
        }
        Request::GetRanges { ranges } => {
            return serve_pieces::get_ranges(member, peer, ranges, &mut send).await;
        }
        request => {
            let store = member.store.clone();
            blocking(member, move || look(&store, request)).await
        }
    };
    if let Response::Refused { reason } = &response {
        tracing::debug!(peer = %peer.short(), reason, "a request was refused");
    }
    respond(Lane::Bulk, &mut send, &response).await;
}

/// Runs work with the store on a thread that may block.
async fn blocking(member: &Member, work: impl FnOnce() -> Response + Send + 'static) -> Response {
    let done = member.tasks.blocking(work).await;
    done.unwrap_or_else(|_| Response::refused("the work with the store was interrupted"))
}

/// The requests that only read.
fn look(store: &Store, request: Request) -> Response {
    match request {
        Request::Snapshots { service } => match summaries(store, &service) {
            Ok(list) => Response::Snapshots { list },
            Err(error) => Response::refused(error_chain(&error)),
        },
        Request::GetManifest { id } => match known_manifest(store, id) {
            Some(bytes) => Response::Manifest { bytes },
            None => Response::refused(format!("there is no snapshot {} here", id.short())),
        },
        Request::HavePacks { ids } => {
            let packs = ids.into_iter().filter(|id| store.has_pack(id)).collect();
            Response::Having { packs }
        }
        Request::HaveFragments { ids } => match held(store, &ids) {
            Ok(held) => Response::Fragments { held },
            Err(error) => Response::refused(error_chain(&error)),
        },
        Request::GetSheets { packs } => match sheets(store, &packs) {
            Ok(sheets) => Response::Sheets { sheets },
            Err(error) => Response::refused(error_chain(&error)),
        },
        other => Response::refused(format!("{} is not answered here", crate::exchange::name(&other))),
    }
}

/// The fragments of these packs that are held here.
fn held(store: &Store, ids: &[PackId]) -> Result<Vec<HeldFragments>, FragmentError> {
    let Some(fragments) = store.look_at_fragments()? else { return Ok(Vec::new()) };
    let mut held: BTreeMap<(PackId, [u8; 16]), Vec<u8>> = BTreeMap::new();
    for service in fragments.services() {
        for found in ids.iter().flat_map(|id| fragments.of_pack(&service, id)) {
            let indices = held.entry((found.pack.id, found.sheet_check)).or_default();
            indices.extend(found.index);
        }
    }
    let mut held: Vec<HeldFragments> =
        held.into_iter().map(|((pack, sheet), indices)| HeldFragments { pack, sheet, indices }).collect();
    held.retain(|held| !held.indices.is_empty());
    held.truncate(sustain_proto::limits::MESSAGE_PACKS_MAX);
    Ok(held)
}

/// The sheets of these packs; an empty one for each that is not here.
fn sheets(store: &Store, packs: &[PackId]) -> Result<Vec<Vec<u8>>, FragmentError> {
    let Some(fragments) = store.look_at_fragments()? else { return Ok(vec![Vec::new(); packs.len()]) };
    let services = fragments.services();
    let sheet = |pack: &PackId| {
        // What is damaged here another one has.
        let found = services.iter().find_map(|service| fragments.sheet(service, pack).ok().flatten());
        found.filter(|sheet| sheet.len() <= sustain_proto::limits::SHEET_BYTES_MAX).unwrap_or_default()
    };
    Ok(packs.iter().map(sheet).collect())
}

/// The newest snapshots of a service in this store, and those that it holds fragments of, newest last.
pub(crate) fn summaries(store: &Store, service: &ServiceName) -> Result<Vec<SnapshotSummary>, ReadError> {
    let here = store.snapshots(Some(service))?;
    let mut list: Vec<SnapshotSummary> = here.iter().map(SnapshotInfo::summary).collect();
    if let Some(fragments) = store.look_at_fragments().ok().flatten() {
        let known: BTreeSet<_> = list.iter().map(|summary| summary.id).collect();
        let mut kept = fragments.manifests(service);
        kept.retain(|kept| !known.contains(&kept.id));
        list.extend(kept.iter().map(|kept| {
            let Manifest { term, origin, seq, .. } = kept.manifest;
            SnapshotSummary { id: kept.id, term, origin, seq, durable: false, whole: false }
        }));
        list.sort_by_key(|summary| (summary.term, summary.seq));
    }
    let surplus = list.len().saturating_sub(sustain_proto::limits::MESSAGE_SNAPSHOTS_MAX);
    list.drain(..surplus);
    Ok(list)
}

async fn get_pack(member: &Member, peer: NodeId, id: PackId, part: Range<u64>, send: &mut SendStream) {
    let store = member.store.clone();
    // Single parts are sound where the whole is not: who asks for one checks it.
    let reader = match member.tasks.blocking(move || store.read_remains(id)).await {
        Ok(Ok(reader)) if part.start <= reader.len() => reader,
        Ok(Ok(reader)) => {
            let reason = format!("pack {} has {} bytes, not {}", id.short(), reader.len(), part.start);
            return respond(Lane::Bulk, send, &Response::refused(reason)).await;
        }
        Ok(Err(error)) => return respond(Lane::Bulk, send, &Response::refused(error_chain(&error))).await,
        Err(_) => return,
    };
    let header = Response::Pack { bytes: reader.len() };
    let write = frames::write(send, &header, Lane::Bulk.frame_bytes_max());
    if !matches!(tokio::time::timeout(member.request_timeout(), write).await, Ok(Ok(()))) {
        return;
    }
    if part.end < reader.len() {
        // A guest waits for it, while whole packs are fetched for later. Fails only on a closed stream.
        let _ = send.set_priority(PART_PRIORITY);
    }
    let part = part.start..part.end.min(reader.len());
    let ways = (&member.tasks, &member.uplink);
    match pump::send(ways, reader, part, send, member.stall_timeout()).await {
        // Fails only on a stream that is finished already.
        Ok(()) => drop(send.finish()),
        Err(error) => {
            tracing::debug!(peer = %peer.short(), pack = %id.short(), error = error_chain(&error), "not sent");
            // What was sent must not look whole. Fails only on a closed stream.
            let _ = send.reset(STREAM_ABANDONED);
        }
    }
}
