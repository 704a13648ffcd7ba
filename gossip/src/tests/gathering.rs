//! Snapshots from several nodes to one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sustain_proto::{Manifest, PackRef, SnapshotId};
use sustain_store::{NoProgress, Progress};

use super::harness::{self, TestNode};
use crate::fetch::{self, Outcome};
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
    assert_eq!(report.bytes_fetched, sizes);
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
    assert_eq!(report.bytes_fetched, sizes, "no byte was fetched twice");
    assert_eq!(breaker.bytes.load(Ordering::SeqCst), sizes);
    assert!(report.transfers_broken > 0, "{report:?}");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_at_the_byte_where_it_stopped() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let id = nodes[0].push("mail", &harness::noise(3, 8 << 20)).snapshot;
    copy(&nodes[0], &nodes[1..2], id);
    let pack = *packs(&nodes[0], id).iter().max_by_key(|pack| pack.bytes).unwrap();
    let member = nodes[2].cluster.member();
    let breaker: SharedProgress = Breaker::new(vec![nodes[0].cluster.clone()], 1 << 20);
    let first = fetch::fetch(member, nodes[0].id(), pack, None, 0, &breaker).await;
    let Outcome::Broken { partial: Some(partial), .. } = first.outcome else { panic!("it did not break") };
    assert!(first.bytes >= 1 << 20 && first.bytes < pack.bytes, "{}", first.bytes);
    assert_eq!(partial.written(), first.bytes);
    let rest = fetch::fetch(member, nodes[1].id(), pack, Some(partial), first.counted, &breaker).await;
    assert!(matches!(rest.outcome, Outcome::Whole));
    assert_eq!(first.bytes + rest.bytes, pack.bytes);
    assert!(nodes[2].store.has_pack(&pack.id));
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_peer_is_found_out_and_the_pack_comes_from_another() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let bytes = harness::noise(4, 2 << 20);
    let id = nodes[0].push("mail", &bytes).snapshot;
    copy(&nodes[0], &nodes[1..2], id);
    assert!(nodes[0].damage_packs() > 0);
    // Whoever is asked first: bytes from the damaged store are never taken.
    let pack = *packs(&nodes[1], id).iter().max_by_key(|pack| pack.bytes).unwrap();
    let member = nodes[2].cluster.member();
    let fetched = fetch::fetch(member, nodes[0].id(), pack, None, 0, &silent()).await;
    assert!(!matches!(fetched.outcome, Outcome::Whole));
    let report = nodes[2].cluster.gather(id, silent()).await.unwrap();
    assert_eq!(nodes[2].restored(id), bytes);
    assert!(report.liars.iter().all(|peer| *peer == nodes[0].id()), "{report:?}");
    harness::stop(&nodes).await;
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
