//! Snapshots whose packs nobody has whole, from nodes with a fragment of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sustain_proto::{Cut, FragmentId, Manifest, PackId, Piece, SnapshotId};
use sustain_store::{Pace, Progress, StoredSheet};

use super::gathering::silent;
use super::harness::{self, TestNode, service_name};
use crate::{Cluster, ErrorKind, GatherError, Share, Tuning};

const CUT: Cut = Cut { needed: 3, total: 8, extent_bytes: 3 * 65_536 };

/// A snapshot as its fragments.
struct Cutting {
    manifests: Vec<Vec<u8>>,
    packs: Vec<(StoredSheet, Vec<Vec<u8>>)>,
}

impl Cutting {
    fn of(node: &TestNode, id: SnapshotId) -> Self {
        let manifests = node.store.manifests_for(id).unwrap();
        let packs = manifests.iter().flat_map(|bytes| Manifest::decode(bytes).unwrap().1.packs);
        let mut cuts: Vec<(StoredSheet, Vec<Vec<u8>>)> = Vec::new();
        for pack in packs {
            if cuts.iter().any(|(sheet, _)| sheet.sheet.pack == pack) {
                continue;
            }
            let mut fragments = vec![Vec::new(); 8];
            let all: Vec<u8> = (0..8).collect();
            let mut sink = |index: u8, bytes: &[u8]| {
                fragments[usize::from(index)].extend_from_slice(bytes);
                Ok(())
            };
            let service = service_name("mail");
            let sheet = node.store.cut_pack(&service, pack.id, CUT, &all, Pace::Full, &mut sink).unwrap();
            cuts.push((StoredSheet::unsigned(sheet).unwrap(), fragments));
        }
        Self { manifests, packs: cuts }
    }

    /// Has a node hold one fragment of each pack.
    fn give(&self, node: &TestNode, index: u8) {
        let fragments = node.store.fragments().unwrap();
        fragments.keep_manifests(&self.manifests).unwrap();
        let put = |(sheet, all): &(StoredSheet, Vec<Vec<u8>>)| {
            fragments.put(sheet, index, &all[usize::from(index)]).unwrap()
        };
        let appended: Vec<_> = self.packs.iter().map(put).collect();
        fragments.sync(&appended).unwrap();
    }

    fn bytes(&self) -> u64 {
        self.packs.iter().map(|(sheet, _)| sheet.sheet.pack.bytes).sum()
    }

    fn ids(&self) -> Vec<PackId> {
        self.packs.iter().map(|(sheet, _)| sheet.sheet.pack.id).collect()
    }
}

/// Nodes of which the first has pushed something and is gone, those after it hold fragments 0, 1, 2 and so on, and the
/// last one has nothing.
async fn cluster(
    count: usize,
    shares: &[(usize, Share)],
    bytes: &[u8],
) -> (Vec<TestNode>, SnapshotId, Cutting) {
    let mut configs = harness::configs(count, &Tuning::default());
    shares.iter().for_each(|(node, share)| configs[*node].1.share = *share);
    let configs = configs.into_iter().zip(0..);
    let nodes: Vec<TestNode> =
        configs.map(|((socket, config), number)| TestNode::start(number, socket, config)).collect();
    for node in &nodes {
        let others: Vec<_> = node.config.peers.iter().map(|peer| peer.id).collect();
        node.wait_reachable(&others).await;
    }
    let id = nodes[0].push("mail", bytes).snapshot;
    let cutting = Cutting::of(&nodes[0], id);
    for (index, node) in nodes[1..count - 1].iter().enumerate() {
        cutting.give(node, index as u8);
    }
    nodes[0].cluster.shutdown().await;
    (nodes, id, cutting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_nobody_has_are_made_of_fragments() {
    let bytes = harness::noise(1, 5_000_000);
    let (nodes, id, cutting) = cluster(6, &[], &bytes).await;
    let last = &nodes[5];
    let report = last.cluster.gather(id, silent()).await.unwrap();
    assert_eq!(last.restored(id), bytes);
    assert_eq!((report.packs_fetched, report.packs_rebuilt), (cutting.packs.len(), cutting.packs.len()));
    assert!(report.bytes_fetched < cutting.bytes() + cutting.bytes() / 2 + 500_000, "{report:?}");
    assert!(report.peers.len() >= 3 && report.liars.is_empty(), "{report:?}");
    let known = last.cluster.known_snapshots(&service_name("mail")).await;
    assert!(known.iter().any(|(_, list)| list.iter().any(|summary| summary.id == id && !summary.whole)));
    harness::stop(&nodes).await;
}

/// A restore that leaves a region for later asks for whole packs, and ended where nobody had any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_from_fragments_gathers_everything() {
    let bytes = harness::noise(8, 500_000);
    let (nodes, id, _) = cluster(5, &[], &bytes).await;
    let lazy = vec![sustain_proto::RegionName::new("ram").unwrap()];
    let started = nodes[4].cluster.gather_to_start(id, lazy).await.unwrap();
    assert!(started.remote.is_none());
    assert_eq!(nodes[4].restored(id), bytes);
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lies_is_named_and_who_is_gone_is_left() {
    let bytes = harness::noise(2, 3_000_000);
    let (nodes, id, cutting) = cluster(7, &[], &bytes).await;
    // Of five holders one is gone and one gives false lists.
    nodes[2].cluster.break_off();
    for (sheet, fragments) in &cutting.packs {
        let groups = fragments[0].len().div_ceil(65_536);
        let piece = Piece::Fragment(sheet.sheet.fragments[0]);
        nodes[1].cluster.member().lists.put(piece, Arc::new(vec![[9; 32]; groups]));
    }
    let last = &nodes[6];
    let report = last.cluster.gather(id, silent()).await.unwrap();
    assert_eq!(last.restored(id), bytes);
    assert!(report.liars.iter().all(|liar| *liar == nodes[1].id()), "{report:?}");
    assert!(!report.peers.contains_key(&nodes[1].id()) && !report.peers.contains_key(&nodes[2].id()));
    harness::stop(&nodes).await;
}

/// A node that goes by a sheet of its own: what it holds is what that sheet names, and makes another pack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_sheet_costs_time_at_most() {
    let bytes = harness::noise(3, 2_000_000);
    let (nodes, id, cutting) = cluster(5, &[], &bytes).await;
    let last = &nodes[4];
    for (sheet, fragments) in &cutting.packs {
        let mut other = sheet.sheet.clone();
        let wrong: Vec<Vec<u8>> =
            fragments.iter().map(|fragment| fragment.iter().map(|byte| byte ^ 1).collect()).collect();
        other.fragments = wrong.iter().map(|bytes| FragmentId::of(bytes)).collect();
        let other = StoredSheet::unsigned(other).unwrap();
        let held = nodes[3].store.fragments().unwrap();
        let put: Vec<_> =
            (3..7).map(|index| held.put(&other, index, &wrong[usize::from(index)]).unwrap()).collect();
        held.sync(&put).unwrap();
    }
    let report = last.cluster.gather(id, silent()).await.unwrap();
    assert_eq!(last.restored(id), bytes);
    assert_eq!(report.liars, [].into(), "nobody had to believe it");
    // Now there is only the false one.
    let alone = cluster_of_liars(&nodes, &cutting).await;
    assert!(matches!(alone, GatherError::TooFew { .. }), "{alone}");
    harness::stop(&nodes).await;
}

/// What the second node is told when only the fourth one is left, which has one good fragment and four false ones.
async fn cluster_of_liars(nodes: &[TestNode], cutting: &Cutting) -> GatherError {
    nodes[4].cluster.shutdown().await;
    nodes[1].cluster.shutdown().await;
    let (id, _) = Manifest::decode(cutting.manifests.last().unwrap()).unwrap();
    nodes[2].cluster.gather(id, silent()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_fragments_the_pack_and_their_number_are_named() {
    let (nodes, id, cutting) = cluster(4, &[], &harness::noise(4, 300_000)).await;
    let error = nodes[3].cluster.gather(id, silent()).await.unwrap_err();
    let GatherError::TooFew { pack, found, needed, asked, .. } = &error else { panic!("{error}") };
    assert!(cutting.ids().contains(pack));
    assert_eq!((*found, *needed, *asked), (2, Some(3), 2));
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("2 different fragments of it are, where 3 are needed"), "{error}");
    // The third one is its own.
    cutting.give(&nodes[3], 6);
    let report = nodes[3].cluster.gather(id, silent()).await.unwrap();
    assert!(report.bytes_fetched < cutting.bytes(), "{report:?}");
    harness::stop(&nodes).await;
}

/// Breaks clusters off when so many bytes are here.
struct Breaker(Vec<Cluster>, u64, AtomicU64);

impl Progress for Breaker {
    fn total(&self, _bytes: u64) {}

    fn advance(&self, bytes: u64) {
        if self.2.fetch_add(bytes, Ordering::SeqCst) + bytes >= self.1 {
            self.0.iter().for_each(Cluster::break_off);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_may_die_on_the_way_as_long_as_enough_are_left() {
    let bytes = harness::noise(5, 60 << 20);
    let (nodes, id, cutting) = cluster(7, &[], &bytes).await;
    assert!(cutting.packs.len() > 2);
    let victims = vec![nodes[1].cluster.clone(), nodes[2].cluster.clone()];
    let breaker = Arc::new(Breaker(victims, 1, AtomicU64::new(0)));
    let report = nodes[6].cluster.gather(id, breaker.clone()).await.unwrap();
    assert_eq!(nodes[6].restored(id), bytes);
    assert_eq!(breaker.2.load(Ordering::SeqCst), cutting.bytes(), "progress tells of every byte");
    assert_eq!(report.packs_rebuilt, cutting.packs.len());
    harness::stop(&nodes).await;
}

/// A holder whose uplink is a thousandth of the others' was waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_holder_is_not_waited_for() {
    let slow = Share { upload_bytes_per_second: Some(64 << 10), ..Share::default() };
    let bytes = harness::noise(6, 30 << 20);
    let (nodes, id, _) = cluster(7, &[(1, slow), (2, slow)], &bytes).await;
    let started = Instant::now();
    nodes[6].cluster.gather(id, silent()).await.unwrap();
    let took = started.elapsed();
    // A fragment of each pack by the slow ones would take 80 seconds.
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert_eq!(nodes[6].restored(id), bytes);
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuilding_goes_on_where_an_earlier_one_stopped() {
    let bytes = harness::noise(7, 30 << 20);
    let slow = Share { upload_bytes_per_second: Some(2 << 20), ..Share::default() };
    let (nodes, id, cutting) = cluster(5, &[(1, slow), (2, slow), (3, slow)], &bytes).await;
    {
        let gathering = nodes[4].cluster.gather(id, silent());
        tokio::pin!(gathering);
        let some = tokio::time::sleep(Duration::from_secs(4));
        tokio::select! { () = some => {}, _ = &mut gathering => panic!("it should have taken longer") }
    }
    let report = nodes[4].cluster.gather(id, silent()).await.unwrap();
    assert_eq!(nodes[4].restored(id), bytes);
    assert!(report.bytes_resumed > 4 << 20, "{report:?}");
    assert!(report.bytes_fetched < cutting.bytes() - (4 << 20), "{report:?}");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_small_packs_take_few_requests() {
    let mut configs = harness::configs(5, &Tuning::default()).into_iter().zip(0..);
    let nodes: Vec<TestNode> =
        configs.by_ref().map(|((socket, config), number)| TestNode::start(number, socket, config)).collect();
    for node in &nodes {
        let others: Vec<_> = node.config.peers.iter().map(|peer| peer.id).collect();
        node.wait_reachable(&others).await;
    }
    let mut bytes = vec![0; 100 * 65_536];
    nodes[0].push("mail", &bytes);
    let mut id = None;
    for push in 0..100_usize {
        bytes[push * 65_536..(push + 1) * 65_536].copy_from_slice(&harness::noise(push as u64, 65_536));
        id = Some(nodes[0].push("mail", &bytes).snapshot);
    }
    let id = id.unwrap();
    let cutting = Cutting::of(&nodes[0], id);
    assert!(cutting.packs.len() >= 100);
    (1..4).for_each(|node| cutting.give(&nodes[node], node as u8));
    nodes[0].cluster.shutdown().await;
    let before = nodes[4].cluster.member().requests_sent();
    nodes[4].cluster.gather(id, silent()).await.unwrap();
    let requests = nodes[4].cluster.member().requests_sent() - before;
    assert_eq!(nodes[4].restored(id), bytes);
    assert!(requests < 60, "{requests} requests");
    harness::stop(&nodes).await;
}
