//! Starting from a snapshot of which only a part is here.

use std::path::PathBuf;

use sustain_proto::{ChunkId, PackRef, RegionName, SnapshotId};
use sustain_store::{ForeignError, ReadError};

use super::gathering::{copy, silent};
use super::harness::{self, TestNode};
use crate::remote::{PartError, RemoteSnapshot, fetch_from};
use crate::{Cluster, ErrorKind, Started, Tuning};

const CHUNK: usize = sustain_proto::limits::CHUNK_BYTES;

fn disk_name() -> RegionName {
    RegionName::new("disk0").unwrap()
}

/// A base and a delta of a service whose disk fills packs of its own.
fn push(node: &TestNode, seed: u64) -> (SnapshotId, Vec<u8>) {
    let (mut ram, mut disk) = (harness::noise(seed, 2 << 20), harness::noise(seed + 1, 40 << 20));
    node.push_regions("mail", &[("ram", &ram), ("disk0", &disk)]);
    ram[..1_000].fill(1);
    disk[..CHUNK].fill(2);
    (node.push_regions("mail", &[("ram", &ram), ("disk0", &disk)]).snapshot, disk)
}

async fn start(cluster: &Cluster, id: SnapshotId) -> Result<Started, crate::GatherError> {
    cluster.gather_to_start(id, vec![disk_name()]).await
}

/// The chunks of the disk that are not here: position, pack and id.
fn elsewhere(snapshot: &RemoteSnapshot) -> Vec<(usize, PackRef, ChunkId)> {
    let reader = snapshot.reader();
    let mut buffer = vec![0; CHUNK];
    let look = |position: u64| match reader.read_chunk(&disk_name(), position, &mut buffer) {
        Err(ReadError::Elsewhere { pack, chunk }) => Some((position as usize, pack, chunk)),
        other => {
            other.unwrap();
            None
        }
    };
    reader.data_positions(&disk_name()).filter_map(look).collect()
}

async fn fetch_all(cluster: &Cluster, snapshot: &RemoteSnapshot, disk: &[u8]) {
    let chunks = elsewhere(snapshot);
    assert!(chunks.len() > 100, "{}", chunks.len());
    for (position, pack, chunk) in chunks {
        let plain = cluster.fetch_chunk(snapshot, pack, chunk).await.unwrap();
        assert!(plain == disk[position * CHUNK..][..CHUNK], "chunk {position}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restore_needs_is_fetched_and_the_rest_comes_by_chunks_or_whole() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let (id, disk) = push(&nodes[0], 1);
    copy(&nodes[0], &nodes[1..2], id);
    let needed: u64 = nodes[0].store.packs_needed(id).unwrap().iter().map(|pack| pack.bytes).sum();
    let (cluster, store) = (&nodes[2].cluster, &nodes[2].store);
    let Started { report, remote } = start(cluster, id).await.unwrap();
    let remote = remote.unwrap();
    let fetched = needed - remote.bytes_left();
    assert!(report.bytes_fetched >= fetched && report.bytes_fetched <= 2 * fetched, "{report:?}");
    assert_eq!(report.snapshots.len(), 0);
    assert!(remote.bytes_left() >= 16 << 20, "{report:?}");
    assert!(store.manifest(id).is_err(), "nobody is told that it is here");

    fetch_all(cluster, &remote, &disk).await;
    let on_demand = remote.bytes_on_demand();
    assert!(on_demand > 0 && on_demand <= 4 * remote.bytes_left(), "{on_demand}: four chunks come with one");
    assert_eq!(start(cluster, id).await.unwrap().report.bytes_fetched, 0, "what came whole is still here");

    let whole = cluster.gather(id, silent()).await.unwrap();
    assert!(whole.bytes_fetched >= needed - fetched && whole.bytes_fetched < needed, "{whole:?}");
    assert_eq!((remote.bytes_left(), elsewhere(&remote).len()), (0, 0), "an open reader reads what came");
    let again = start(cluster, id).await.unwrap();
    assert!(again.remote.is_none() && again.report.bytes_fetched == 0, "{again:?}");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_regions_that_can_wait_all_is_gathered() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (id, _) = push(&nodes[0], 5);
    let started = nodes[1].cluster.gather_to_start(id, Vec::new()).await.unwrap();
    assert!(started.remote.is_none());
    assert_eq!(started.report.snapshots.last(), Some(&id));
    // Of another service all is eager too: its packs have memory in them.
    let small = nodes[0].push("web", &harness::noise(7, 1 << 20)).snapshot;
    assert!(start(&nodes[1].cluster, small).await.unwrap().remote.is_none());
    assert!(nodes[1].store.manifest(small).is_ok());
    harness::stop(&nodes).await;
}

/// A guest waits for them, and nobody else may have them. What was set aside once could not be had at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_chunks_of_a_pack_that_was_set_aside_are_given() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (id, disk) = push(&nodes[0], 12);
    let remote = start(&nodes[1].cluster, id).await.unwrap().remote.unwrap();
    assert!(nodes[0].damage_packs() > 0);
    for pack in nodes[0].store.packs_needed(id).unwrap() {
        assert!(nodes[0].store.set_aside_if_damaged(pack.id).unwrap());
        assert!(!nodes[0].store.has_pack(&pack.id));
    }
    let (mut sound, mut lacking) = (0, 0);
    for (position, pack, chunk) in elsewhere(&remote) {
        match nodes[1].cluster.fetch_chunk(&remote, pack, chunk).await {
            Ok(plain) => {
                sound += 1;
                assert!(plain == disk[position * CHUNK..][..CHUNK], "chunk {position}");
            }
            Err(_) => lacking += 1,
        }
    }
    assert!(sound > 100 && (1..20).contains(&lacking), "{sound} sound ones, {lacking} are lacking");
    // Who starts only now gets as much, unless what is damaged can't wait.
    match start(&nodes[1].cluster, id).await {
        Ok(Started { remote: Some(_), .. }) => {}
        other => panic!("{other:?}"),
    }
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_refused_and_another_peer_gives_the_chunk() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let (id, disk) = push(&nodes[0], 10);
    copy(&nodes[0], &nodes[1..2], id);
    let remote = start(&nodes[2].cluster, id).await.unwrap().remote.unwrap();
    assert!(nodes[0].damage_packs() > 0);
    let mut lies = 0;
    for (position, pack, chunk) in elsewhere(&remote) {
        match fetch_from(nodes[2].cluster.member(), &remote, nodes[0].id(), pack, chunk).await {
            Ok(chunks) => assert!(chunks[0].1 == disk[position * CHUNK..][..CHUNK]),
            Err(PartError::Foreign(ForeignError::Wrong { .. })) => lies += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(lies > 0, "no damaged byte was met");
    fetch_all(&nodes[2].cluster, &remote, &disk).await;
    harness::stop(&nodes).await;
}

/// Puts the packs of another service in the place of packs of the same size: proper ones, with false directories.
fn exchange_packs(liar: &TestNode) -> usize {
    let sized = |path: &PathBuf| (std::fs::metadata(path).unwrap().len(), path.clone());
    let mut files: Vec<_> = liar.pack_files().iter().map(sized).collect();
    files.sort();
    let mut exchanged = 0;
    for pair in files.windows(2) {
        if pair[0].0 == pair[1].0 {
            std::fs::copy(&pair[1].1, &pair[0].1).unwrap();
            exchanged += 1;
        }
    }
    exchanged
}

/// Where no honest peer has the directories, all packs are fetched whole, and the lie is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn false_directories_harm_only_who_gives_them() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let (id, disk) = push(&nodes[0], 20);
    copy(&nodes[0], &nodes[1..2], id);
    let (other, _) = push(&nodes[0], 30);
    assert_ne!(other, id);
    assert!(exchange_packs(&nodes[0]) > 0);
    nodes[1].cluster.shutdown().await;
    let error = start(&nodes[2].cluster, id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");

    let honest = nodes[1].again().await;
    nodes[2].recorder.forget();
    nodes[2].wait_reachable(&[nodes[1].id()]).await;
    let started = start(&nodes[2].cluster, id).await.unwrap();
    match started.remote {
        Some(remote) => fetch_all(&nodes[2].cluster, &remote, &disk).await,
        None => assert!(nodes[2].store.manifest(id).is_ok()),
    }
    honest.shutdown().await;
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_are_lost_on_the_way_are_replaced_and_their_return_is_noticed() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let (id, disk) = push(&nodes[0], 40);
    copy(&nodes[0], &nodes[1..2], id);
    let cluster = &nodes[2].cluster;
    let remote = start(cluster, id).await.unwrap().remote.unwrap();
    nodes[0].cluster.break_off();
    fetch_all(cluster, &remote, &disk).await;
    nodes[1].cluster.shutdown().await;
    // Not the first: that one may have come along with another.
    let (_, pack, chunk) = elsewhere(&remote)[0];
    let error = cluster.fetch_chunk(&remote, pack, chunk).await.unwrap_err();
    assert!(error.to_string().contains("no peer gives chunk"), "{error}");
    let back = nodes[1].again().await;
    nodes[2].recorder.forget();
    nodes[2].wait_reachable(&[nodes[1].id()]).await;
    fetch_all(cluster, &remote, &disk).await;
    back.shutdown().await;
    harness::stop(&nodes).await;
}

/// An election goes to an older snapshot when one can't be had (P14): a VM must not be started that lacks a part of its
/// disk for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_started_while_nobody_has_a_part_of_the_rest() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (id, _) = push(&nodes[0], 50);
    let pack = nodes[0].store.packs_needed(id).unwrap().into_iter().max_by_key(|pack| pack.bytes).unwrap();
    nodes[0].damage_packs();
    assert!(nodes[0].store.set_aside_if_damaged(pack.id).unwrap());
    let error = start(&nodes[1].cluster, id).await.unwrap_err();
    assert!(
        matches!(&error, crate::GatherError::Missing { missing, .. } if *missing == [pack.id]),
        "{error}"
    );
    harness::stop(&nodes).await;
}
