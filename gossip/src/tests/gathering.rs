//! Snapshots from several nodes to one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sustain_proto::wire::Request;
use sustain_proto::{Manifest, PackRef, Piece, SnapshotId};
use sustain_store::{NoProgress, Progress};

use super::harness::{self, TestNode};
use crate::gather::SharedProgress;
use crate::{Cluster, ErrorKind, Tuning};

/// Breaks clusters off, without a word to their tasks, once so many bytes have come.
struct Breaker {
    victims: Vec<Cluster>,
    after_bytes: u64,
    bytes: AtomicU64,
    total: AtomicU64,
}

impl Breaker {
    fn new(victims: Vec<Cluster>, after_bytes: u64) -> Arc<Self> {
        Arc::new(Self { victims, after_bytes, bytes: AtomicU64::new(0), total: AtomicU64::new(0) })
    }
}

impl Progress for Breaker {
    fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::SeqCst);
    }

    fn advance(&self, bytes: u64) {
        if self.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes >= self.after_bytes {
            self.victims.iter().for_each(Cluster::break_off);
        }
    }
}

/// Gives the other nodes the first one's snapshot, store to store.
pub(super) fn copy(from: &TestNode, to: &[TestNode], id: SnapshotId) {
    let manifests = from.store.manifests_for(id).unwrap();
    for node in to {
        for pack in node.store.packs_lacking(&manifests).unwrap() {
            let reader = from.store.read_pack(pack).unwrap();
            let mut bytes = vec![0; reader.len() as usize];
            reader.read_at(0, &mut bytes).unwrap();
            let mut receiver = node.store.receive_pack(pack, reader.len()).unwrap();
            receiver.write(&bytes).unwrap();
            receiver.finish().unwrap();
        }
        node.store.import(&manifests).unwrap();
    }
}

fn packs(node: &TestNode, id: SnapshotId) -> Vec<PackRef> {
    let manifests = node.store.manifests_for(id).unwrap();
    manifests.iter().flat_map(|bytes| Manifest::decode(bytes).unwrap().1.packs).collect()
}

pub(super) fn silent() -> SharedProgress {
    Arc::new(NoProgress)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_and_its_delta_come_from_the_others() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let mut bytes = harness::noise(1, 2_000_000);
    nodes[0].push("mail", &bytes);
    bytes[1_000_000..1_000_100].fill(1);
    let id = nodes[0].push("mail", &bytes).snapshot;
    copy(&nodes[0], &nodes[1..2], id);
    let counter = Breaker::new(vec![], u64::MAX);
    let report = nodes[2].cluster.gather(id, counter.clone()).await.unwrap();
    assert_eq!(nodes[2].restored(id), bytes);
    let sizes: u64 = packs(&nodes[0], id).iter().map(|pack| pack.bytes).sum();
    assert!(report.bytes_fetched >= sizes && report.bytes_fetched <= 2 * sizes, "{report:?}");
    assert_eq!(counter.bytes.load(Ordering::SeqCst), sizes, "progress tells of every byte");
    assert_eq!(counter.total.load(Ordering::SeqCst), sizes);
    assert_eq!(report.snapshots.last(), Some(&id));
    let again = nodes[2].cluster.gather(id, silent()).await.unwrap();
    assert_eq!((again.bytes_fetched, again.packs_fetched), (0, 0), "what is here is not fetched again");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gathering_survives_peers_that_die_on_the_way() {
    let nodes = harness::start(4, &Tuning::default()).await;
    let bytes = harness::noise(2, 40 << 20);
    let id = nodes[0].push("mail", &bytes).snapshot;
    copy(&nodes[0], &nodes[1..3], id);
    let victims = vec![nodes[0].cluster.clone(), nodes[1].cluster.clone()];
    let breaker = Breaker::new(victims, 1 << 20);
    let report = nodes[3].cluster.gather(id, breaker.clone()).await.unwrap();
    assert_eq!(nodes[3].restored(id), bytes);
    let sizes: u64 = packs(&nodes[2], id).iter().map(|pack| pack.bytes).sum();
    assert!(report.bytes_fetched >= sizes && report.bytes_fetched < sizes + sizes / 10, "{report:?}");
    assert_eq!(breaker.bytes.load(Ordering::SeqCst), sizes);
    assert!(report.transfers_broken > 0, "{report:?}");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gathering_goes_on_where_an_earlier_one_stopped() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let bytes = harness::noise(3, 40 << 20);
    let id = nodes[0].push("mail", &bytes).snapshot;
    copy(&nodes[0], &nodes[1..2], id);
    let counter = Breaker::new(vec![], u64::MAX);
    {
        let gathering = nodes[2].cluster.gather(id, counter.clone());
        tokio::pin!(gathering);
        let half = async {
            while counter.bytes.load(Ordering::SeqCst) < 20 << 20 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; () = half => {}, _ = &mut gathering => panic!("it should have taken longer") }
    }
    let again = Breaker::new(vec![], u64::MAX);
    let report = nodes[2].cluster.gather(id, again.clone()).await.unwrap();
    let sizes: u64 = packs(&nodes[0], id).iter().map(|pack| pack.bytes).sum();
    let total = again.total.load(Ordering::SeqCst);
    assert!(total < sizes || report.bytes_resumed > 0, "{report:?}");
    assert_eq!(again.bytes.load(Ordering::SeqCst), total, "what is resumed is progress, too");
    let kept = sizes - total + report.bytes_resumed;
    assert!(kept >= 20 << 20, "{report:?}");
    assert!(report.bytes_fetched < sizes - kept + (4 << 20), "{report:?}");
    assert_eq!(nodes[2].restored(id), bytes);
    let incoming = nodes[2].folder.path().join("store").join("incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0, "nothing is left of it");
    harness::stop(&nodes).await;
}

/// Has a node take this for the true lists of its packs, whatever its files hold.
fn remember_lists(node: &TestNode, id: SnapshotId) {
    for pack in packs(node, id) {
        let values = node.store.pack_groups(pack.id).unwrap();
        node.cluster.member().lists.put(Piece::Pack(pack.id), Arc::new(values));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_peer_is_named_and_its_groups_come_from_another() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let bytes = harness::noise(4, 20 << 20);
    let id = nodes[0].push("mail", &bytes).snapshot;
    copy(&nodes[0], &nodes[1..2], id);
    remember_lists(&nodes[0], id);
    for path in nodes[0].pack_files() {
        let mut file = std::fs::read(&path).unwrap();
        file.iter_mut().step_by(10_000).for_each(|byte| *byte ^= 1);
        std::fs::write(&path, file).unwrap();
    }
    let report = nodes[2].cluster.gather(id, silent()).await.unwrap();
    assert_eq!(nodes[2].restored(id), bytes);
    assert_eq!(report.liars, [nodes[0].id()].into());
    assert!(!report.peers.contains_key(&nodes[0].id()), "none of its groups counts: {report:?}");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_packs_of_a_peer_cost_time_at_most() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let bytes = harness::noise(4, 2 << 20);
    let id = nodes[0].push("mail", &bytes).snapshot;
    copy(&nodes[0], &nodes[1..2], id);
    assert!(nodes[0].damage_packs() > 0);
    let ask =
        Request::GetGroups { pieces: packs(&nodes[1], id).iter().map(|pack| Piece::Pack(pack.id)).collect() };
    let report = nodes[2].cluster.gather(id, silent()).await.unwrap();
    assert_eq!(nodes[2].restored(id), bytes);
    assert!(report.liars.iter().all(|peer| *peer == nodes[0].id()), "{report:?}");
    let error = nodes[2].cluster.request(nodes[0].id(), ask, harness::PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("lists of groups"), "raw bytes follow: {error}");
    harness::stop(&nodes).await;
}

/// Each pack was a request of its own, with a sync of its own: 300 small deltas took many times as long as one of
/// their size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_deltas_take_as_few_requests_as_one_of_their_size() {
    let mut requests = Vec::new();
    for pushes in [1_usize, 300] {
        let nodes = harness::start(3, &Tuning::default()).await;
        let mut bytes = vec![0; 300 * 65_536];
        nodes[0].push("mail", &bytes);
        let mut id = None;
        for push in 0..pushes {
            let part = bytes.len() / pushes;
            bytes[push * part..(push + 1) * part].copy_from_slice(&harness::noise(push as u64, part));
            id = Some(nodes[0].push("mail", &bytes).snapshot);
        }
        let id = id.unwrap();
        copy(&nodes[0], &nodes[1..2], id);
        assert!(packs(&nodes[0], id).len() >= pushes);
        let before = nodes[2].cluster.member().requests_sent();
        let report = nodes[2].cluster.gather(id, silent()).await.unwrap();
        assert!(report.bytes_fetched > 300 * 65_536);
        requests.push(nodes[2].cluster.member().requests_sent() - before);
        assert_eq!(nodes[2].restored(id), bytes);
        harness::stop(&nodes).await;
    }
    assert!(requests[1] <= 2 * requests[0] + 20, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_is_named() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let unknown = SnapshotId::from_bytes([5; 32]);
    let error = nodes[2].cluster.gather(unknown, silent()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("none of 2"), "{error}");

    let id = nodes[0].push("mail", &harness::noise(5, 1 << 20)).snapshot;
    nodes[0].damage_packs();
    let error = nodes[2].cluster.gather(id, silent()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unreachable), "{error}");

    nodes[0].cluster.shutdown().await;
    nodes[1].cluster.shutdown().await;
    let error = nodes[2].cluster.gather(id, silent()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    harness::stop(&nodes).await;
}

/// Says stop at once.
struct Impatient(AtomicBool);

impl Progress for Impatient {
    fn total(&self, _bytes: u64) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn advance(&self, _bytes: u64) {}

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_or_dropped_gathering_leaves_nothing() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let bytes = harness::noise(6, 4 << 20);
    let id = nodes[0].push("mail", &bytes).snapshot;
    let impatient = Arc::new(Impatient(AtomicBool::new(false)));
    let error = nodes[1].cluster.gather(id, impatient).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let started = Breaker::new(vec![], u64::MAX);
    {
        let gathering = nodes[1].cluster.gather(id, started.clone());
        tokio::pin!(gathering);
        let under_way = async {
            while started.bytes.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; () = under_way => {}, _ = &mut gathering => {} }
    }
    assert!(nodes[1].store.manifest(id).is_err());
    nodes[1].cluster.gather(id, silent()).await.unwrap();
    assert_eq!(nodes[1].restored(id), bytes);
    nodes[1].cluster.shutdown().await;
    // A folder for each process, with its files.
    let processes = std::fs::read_dir(nodes[1].folder.path().join("store").join("tmp")).unwrap();
    let left: usize = processes.map(|own| std::fs::read_dir(own.unwrap().path()).unwrap().count()).sum();
    assert_eq!(left, 0, "no temporary file is left");
    harness::stop(&nodes).await;
}
