//! Who has which fragments of packs that nobody has whole, and the sheets that name them.
//!
//! A sheet is not believed, and need not be: the pack that is made by it is compared with its id. Where peers go by
//! different sheets, the one that most of them go by is tried first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use sustain_proto::limits::{MESSAGE_PACKS_MAX, MESSAGE_SHEETS_MAX};
use sustain_proto::wire::{HeldFragments, Request, Response};
use sustain_proto::{NodeId, PackId, PackRef, Sheet};
use sustain_store::error_chain;
use tokio::task::JoinSet;

use crate::limits;
use crate::member::Member;

/// The first half of a sheet's hash.
pub(super) type SheetCheck = [u8; 16];

/// Who holds each fragment.
pub(super) type Holders = BTreeMap<u8, BTreeSet<NodeId>>;

/// What peers said of fragments.
#[derive(Debug, Default)]
pub(super) struct Survey {
    held: BTreeMap<PackId, BTreeMap<SheetCheck, Holders>>,
    pub(super) answers: usize,
}

/// A sheet of a pack, and who holds what it names.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) sheet: Sheet,
    pub(super) check: SheetCheck,
    pub(super) holders: Holders,
}

impl Survey {
    /// Asks all peers for their fragments of these packs.
    pub(super) async fn take(member: &Arc<Member>, packs: &BTreeMap<PackId, PackRef>) -> Self {
        let ids: Vec<PackId> = packs.keys().copied().collect();
        let requests: Vec<Request> =
            ids.chunks(MESSAGE_PACKS_MAX).map(|ids| Request::HaveFragments { ids: ids.to_vec() }).collect();
        let mut waiting: VecDeque<NodeId> = member.asking_order().into();
        let (mut survey, mut asking) = (Self::default(), JoinSet::new());
        loop {
            while asking.len() < limits::PEERS_ASKED_AT_ONCE {
                let Some(peer) = waiting.pop_front() else { break };
                let (known, requests) = (member.clone(), requests.clone());
                asking.spawn(async move {
                    let mut all = Vec::new();
                    for request in requests {
                        match known.request(peer, &request, known.request_timeout()).await {
                            Ok(Response::Fragments { held }) => all.extend(held),
                            Ok(_) => return None,
                            Err(error) => {
                                tracing::debug!(%error, "a peer could not be asked for fragments");
                                return None;
                            }
                        }
                    }
                    Some((peer, all))
                });
            }
            match asking.join_next().await {
                None => return survey,
                Some(Ok(Some((peer, held)))) => survey.note(peer, held, packs),
                Some(_) => {}
            }
        }
    }

    fn note(&mut self, peer: NodeId, held: Vec<HeldFragments>, packs: &BTreeMap<PackId, PackRef>) {
        self.answers += 1;
        for HeldFragments { pack, sheet, indices } in held {
            if !packs.contains_key(&pack) {
                continue;
            }
            let sheets = self.held.entry(pack).or_default();
            // A peer may say anything, but not without end.
            if sheets.len() >= limits::SHEETS_TRIED_MAX && !sheets.contains_key(&sheet) {
                continue;
            }
            let holders = sheets.entry(sheet).or_default();
            indices.into_iter().for_each(|index| _ = holders.entry(index).or_default().insert(peer));
        }
    }

    /// The sheet of a pack that most peers go by, but for those that were tried: one peer may say that it has anything.
    fn best(&self, pack: &PackId, tried: &BTreeSet<SheetCheck>) -> Option<(SheetCheck, &Holders)> {
        let sheets = self.held.get(pack)?.iter().filter(|(check, _)| !tried.contains(*check));
        let peers = |holders: &Holders| holders.values().flatten().collect::<BTreeSet<_>>().len();
        let best = sheets.max_by_key(|(check, holders)| (peers(holders), holders.len(), **check));
        best.map(|(check, holders)| (*check, holders))
    }

    /// How many different fragments of a pack are there.
    pub(super) fn found(&self, pack: &PackId) -> usize {
        self.held
            .get(pack)
            .into_iter()
            .flat_map(|sheets| sheets.values().map(Holders::len))
            .max()
            .unwrap_or(0)
    }

    /// Fetches sheets of these packs, each the best one that was not tried.
    pub(super) async fn sheets(
        &self,
        member: &Arc<Member>,
        packs: &BTreeMap<PackId, PackRef>,
        tried: &BTreeMap<PackId, BTreeSet<SheetCheck>>,
    ) -> BTreeMap<PackId, Source> {
        let none = BTreeSet::new();
        let mut lacking: BTreeMap<PackId, (SheetCheck, Holders, VecDeque<NodeId>)> = BTreeMap::new();
        for pack in packs.keys() {
            let Some((check, holders)) = self.best(pack, tried.get(pack).unwrap_or(&none)) else { continue };
            let peers: BTreeSet<NodeId> = holders.values().flatten().copied().collect();
            lacking.insert(*pack, (check, holders.clone(), peers.into_iter().collect()));
        }
        let mut sources = BTreeMap::new();
        // Each round asks one peer for each sheet that has not come.
        while !lacking.is_empty() {
            let mut of_peer: BTreeMap<NodeId, Vec<PackId>> = BTreeMap::new();
            lacking.retain(|pack, (.., peers)| {
                let next = peers.pop_front();
                next.is_some_and(|peer| {
                    of_peer.entry(peer).or_default().push(*pack);
                    true
                })
            });
            for (pack, bytes) in ask_sheets(member, of_peer).await {
                let Some((check, ..)) = lacking.get(&pack) else { continue };
                let Some(sheet) = packs.get(&pack).and_then(|pack| good(&bytes, *check, *pack)) else {
                    continue;
                };
                if let Some((check, holders, _)) = lacking.remove(&pack) {
                    sources.insert(pack, Source { sheet, check, holders });
                }
            }
        }
        sources
    }
}

/// A sheet, if it is the one that was asked for, and of this pack.
fn good(bytes: &[u8], check: SheetCheck, pack: PackRef) -> Option<Sheet> {
    let is_it = blake3::hash(bytes).as_bytes().starts_with(&check);
    let sheet = Sheet::decode(bytes).ok().filter(|_| is_it)?;
    (sheet.check().is_ok() && sheet.pack == pack).then_some(sheet)
}

async fn ask_sheets(member: &Arc<Member>, of_peer: BTreeMap<NodeId, Vec<PackId>>) -> Vec<(PackId, Vec<u8>)> {
    let mut asking = JoinSet::new();
    let mut waiting: VecDeque<(NodeId, Vec<PackId>)> = VecDeque::new();
    for (peer, packs) in of_peer {
        waiting.extend(packs.chunks(MESSAGE_SHEETS_MAX).map(|packs| (peer, packs.to_vec())));
    }
    let mut came = Vec::new();
    loop {
        while asking.len() < limits::PEERS_ASKED_AT_ONCE {
            let Some((peer, packs)) = waiting.pop_front() else { break };
            let known = member.clone();
            asking.spawn(async move {
                let request = Request::GetSheets { packs: packs.clone() };
                match known.request(peer, &request, known.request_timeout()).await {
                    Ok(Response::Sheets { sheets }) => packs.into_iter().zip(sheets).collect(),
                    Ok(_) => Vec::new(),
                    Err(error) => {
                        tracing::debug!(error = error_chain(&error), "a peer could not be asked for sheets");
                        Vec::new()
                    }
                }
            });
        }
        match asking.join_next().await {
            None => return came,
            Some(answer) => came.extend(answer.unwrap_or_default()),
        }
    }
}
