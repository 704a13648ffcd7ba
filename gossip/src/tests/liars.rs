//! Members that answer with something else than what they are asked for.

use std::sync::Arc;

use quinn::{Connection, Endpoint, EndpointConfig, SendStream, ServerConfig};
use sustain_proto::wire::{Lane, Request, Response, SnapshotSummary, Versions};
use sustain_proto::{NodeId, Piece, SnapshotId, Term, group_count};
use sustain_store::Store;
use tokio_util::task::TaskTracker;

use super::gathering::silent;
use super::harness::{self, Event, TestNode};
use super::misconduct::others_are_served;
use crate::tls::Pinned;
use crate::transport::frames;
use crate::{Tuning, tls};

/// What it lies about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// Lists of groups.
    Lists,
    /// Bytes of groups, as from a damaged disk. Its lists are true.
    Bytes,
    /// Snapshots that it says it has, and what they are.
    Metadata,
    /// It answers with what is no message.
    Frames,
}

/// A member's key and address, with a program of ours behind it. It has what this store has.
struct Liar {
    lie: Lie,
    store: Store,
    tasks: TaskTracker,
}

impl Liar {
    fn run(self, node: (std::net::UdpSocket, crate::ClusterConfig), peers: Vec<NodeId>) {
        let (socket, config) = node;
        let pinned = Arc::<Pinned>::default();
        pinned.set(peers.into_iter().collect());
        let crypto = tls::server(&config.key, pinned, Versions::default()).unwrap();
        let server = ServerConfig::with_crypto(Arc::new(crypto));
        let runtime = quinn::default_runtime().unwrap();
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime).unwrap();
        let liar = Arc::new(self);
        let tasks = liar.tasks.clone();
        tasks.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let liar = liar.clone();
                liar.tasks.clone().spawn(async move {
                    if let Ok(connection) = incoming.await {
                        liar.serve(connection).await;
                    }
                });
            }
        });
    }

    async fn serve(self: Arc<Self>, connection: Connection) {
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let liar = self.clone();
            self.tasks.spawn(async move {
                if let Ok(request) = frames::read::<Request>(&mut receive, 1 << 20).await {
                    liar.answer(request, &mut send).await;
                    let _ = send.finish();
                }
            });
        }
    }

    async fn answer(&self, request: Request, send: &mut SendStream) {
        if self.lie == Lie::Frames {
            // It fails where the other side has had enough.
            let _ = send.write_all(&[7; 1_000]).await;
            return;
        }
        let response = match &request {
            Request::HavePacks { ids } => Response::Having { packs: ids.clone() },
            Request::GetGroups { pieces } => {
                let bytes = pieces.iter().map(|piece| self.store.pack_bytes(&pack(piece)).unwrap());
                Response::Groups { counts: bytes.map(|bytes| group_count(bytes) as u32).collect() }
            }
            Request::GetRanges { ranges } => Response::Ranges { here: vec![true; ranges.len()] },
            Request::Snapshots { .. } if self.lie == Lie::Metadata => {
                let term = Term { counter: 99, node: NodeId::from_bytes([1; 32]), nonce: 0 };
                let id = SnapshotId::from_bytes([9; 32]);
                let list =
                    vec![SnapshotSummary { id, term, origin: None, seq: 1, durable: true, whole: true }];
                Response::Snapshots { list }
            }
            Request::GetManifest { .. } if self.lie == Lie::Metadata => {
                Response::Manifest { bytes: self.store.manifests_for(first(&self.store)).unwrap().remove(0) }
            }
            _ => Response::refused("not here"),
        };
        let _ = frames::write(send, &response, Lane::Bulk.frame_bytes_max()).await;
        match request {
            Request::GetGroups { pieces } => {
                for piece in pieces {
                    let values = self.store.pack_groups(pack(&piece)).unwrap();
                    let mut raw = values.as_flattened().to_vec();
                    if self.lie == Lie::Lists {
                        raw[5] ^= 1;
                    }
                    let _ = send.write_all(&raw).await;
                }
            }
            Request::GetRanges { ranges } => {
                for range in ranges {
                    let _ = send.write_all(&vec![3; range.bytes as usize]).await;
                }
            }
            _ => {}
        }
    }
}

fn pack(piece: &Piece) -> sustain_proto::PackId {
    let Piece::Pack(id) = piece else { panic!("{piece:?}") };
    *id
}

fn first(store: &Store) -> SnapshotId {
    store.snapshots(None).unwrap().first().unwrap().id
}

/// Two honest nodes, and the configuration of a third one whose place a liar takes, with the second one's store.
async fn two_and(lie: Lie) -> Vec<TestNode> {
    let mut configs = harness::configs(3, &Tuning::default());
    let third = configs.pop().unwrap();
    let nodes: Vec<TestNode> = configs
        .into_iter()
        .zip(0..)
        .map(|((socket, config), number)| TestNode::start(number, socket, config))
        .collect();
    nodes[0].wait_reachable(&[nodes[1].id()]).await;
    nodes[1].wait_reachable(&[nodes[0].id()]).await;
    let ids = nodes.iter().map(TestNode::id).collect();
    Liar { lie, store: nodes[1].store.clone(), tasks: TaskTracker::new() }.run(third, ids);
    nodes
}

fn liar(nodes: &[TestNode]) -> NodeId {
    nodes[0].config.peers[1].id
}

fn shut_out(nodes: &[TestNode]) -> Option<String> {
    nodes[0].recorder.events().into_iter().find_map(|event| match event {
        Event::ShutOut(_, reason) => Some(reason),
        _ => None,
    })
}

/// Gathers new snapshots, one after the other, from the honest node and the liar.
async fn gather_some(nodes: &[TestNode], count: u64) -> usize {
    let mut lied = 0;
    for seed in 0..count {
        let bytes = harness::noise(seed, 1_500_000);
        let id = nodes[1].push(&format!("s{seed}"), &bytes).snapshot;
        let report = nodes[0].cluster.gather(id, silent()).await.unwrap();
        assert!(nodes[0].restored(id) == bytes, "what is kept is what was pushed");
        lied += usize::from(report.liars.contains(&liar(nodes)));
    }
    lied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn false_lists_are_not_used_and_shut_out_who_gives_them() {
    let nodes = two_and(Lie::Lists).await;
    let lied = gather_some(&nodes, 12).await;
    assert!(lied >= 3, "it was asked and found out: {lied}");
    assert_eq!(shut_out(&nodes).as_deref(), Some("it sends false lists of groups"));
    harness::stop(&nodes).await;
}

/// Every node whose disk goes bad would be shut out, with all the good bytes that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_not_used_and_alone_shut_nobody_out() {
    let nodes = two_and(Lie::Bytes).await;
    let lied = gather_some(&nodes, 24).await;
    assert!(lied > 10, "it was asked and found out: {lied}");
    assert_eq!(shut_out(&nodes), None);
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_no_message_shut_out_who_gives_them() {
    let nodes = two_and(Lie::Frames).await;
    gather_some(&nodes, 6).await;
    assert_eq!(shut_out(&nodes).as_deref(), Some("it sends what is no message"));
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_false_metadata_nothing_is_kept() {
    let nodes = two_and(Lie::Metadata).await;
    nodes[1].push("mail", b"true");
    let id = SnapshotId::from_bytes([9; 32]);
    let error = nodes[0].cluster.gather(id, silent()).await.unwrap_err();
    assert!(matches!(error, crate::GatherError::Unknown { .. }), "{error}");
    assert!(nodes[0].store.snapshots(None).unwrap().is_empty());
    others_are_served(&nodes).await;
    harness::stop(&nodes).await;
}
