//! Snapshots are kept by all nodes, which fetch what they lack.

use std::time::{Duration, Instant};

use sustain_proto::wire::Lane;

use super::gathering::silent;
use super::harness::{self, Event, TestNode};
use crate::{KeepingStatus, Tuning};

/// Bytes that a node has sent on the bulk lane, over connections that it dialled and those that it serves.
fn bulk_bytes_sent(node: &TestNode, others: &[TestNode]) -> u64 {
    let member = node.cluster.member();
    let dialled = others.iter().filter_map(|other| member.links.live(other.id(), Lane::Bulk));
    let served = others.iter().filter_map(|other| member.served.live(other.id(), Lane::Bulk));
    dialled.chain(served).map(|connection| connection.stats().udp_tx.bytes).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_sends_each_byte_about_once_and_all_have_it() {
    let nodes = harness::start(5, &Tuning::default()).await;
    let mut ratios = Vec::new();
    // On a machine that does much else, a request may take so long that the bytes are asked for again.
    for round in 0..3 {
        let bytes = harness::noise(round, 20 << 20);
        let before = bulk_bytes_sent(&nodes[0], &nodes[1..]);
        let pushed = nodes[0].push("mail", &bytes);
        nodes[0].retain("mail", 1);
        nodes[0].wait_level(pushed.snapshot, 3).await;
        for node in &nodes[1..] {
            assert_eq!(node.restored(pushed.snapshot), bytes);
        }
        let sent = bulk_bytes_sent(&nodes[0], &nodes[1..]).saturating_sub(before);
        ratios.push(sent as f64 / pushed.bytes_new as f64);
        if ratios[ratios.len() - 1] <= 1.3 {
            break;
        }
    }
    assert!(ratios.iter().any(|ratio| *ratio <= 1.3), "{ratios:?}");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_deltas_are_durable_soon() {
    let nodes = harness::start(5, &Tuning::default()).await;
    let mut bytes = harness::noise(1, 1 << 20);
    let mut took = Vec::new();
    for round in 0..10 {
        bytes[round * 4_000] ^= 1;
        let pushed = nodes[0].push("mail", &bytes);
        let started = Instant::now();
        nodes[0].retain("mail", 1);
        nodes[0].wait_level(pushed.snapshot, 1).await;
        took.push(started.elapsed());
        nodes[0].wait_level(pushed.snapshot, 3).await;
    }
    // Tens of milliseconds, on a machine that has nothing else to do.
    took.sort_unstable();
    assert!(took[5] < Duration::from_millis(700), "{took:?}");
    harness::stop(&nodes).await;
}

/// In a cluster that is larger than a neighbourhood packs are cut: only the server and warm candidates hold whole ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_larger_cluster_others_hold_fragments_only_and_a_candidate_goes_on() {
    let tuning = Tuning { neighbours: 4, ..Tuning::default() };
    let nodes = harness::start(12, &tuning).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let bytes = harness::noise(1, 3 << 20);
    let pushed = nodes[0].push("mail", &bytes);
    nodes[0].retain_warm("mail", 1, vec![nodes[1].id(), nodes[2].id()]);
    nodes[0].wait_level(pushed.snapshot, 1).await;
    let settled = |statuses: &[KeepingStatus]| {
        statuses.iter().all(|status| status.missing_parts == 0 && status.fragment_bytes > 0)
            && statuses.iter().all(|status| status.pack_bytes == 0)
    };
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut statuses = Vec::new();
        for node in &nodes[3..] {
            statuses.extend(node.cluster.keeping().await);
        }
        if settled(&statuses) {
            break;
        }
        assert!(Instant::now() < until, "{statuses:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let held: u64 = nodes[3].cluster.keeping().await.unwrap().fragment_bytes;
    assert!(held < pushed.bytes_new / 2, "{held} of {}", pushed.bytes_new);
    assert!(nodes[3..].iter().all(|node| node.store.snapshots(None).unwrap().is_empty()));
    // The server is lost: the candidate has all, and goes on; others can gather it.
    nodes[0].cluster.break_off();
    assert_eq!(nodes[1].restored(pushed.snapshot), bytes);
    nodes[7].cluster.gather(pushed.snapshot, silent()).await.unwrap();
    assert_eq!(nodes[7].restored(pushed.snapshot), bytes);
    let mut changed = bytes.clone();
    changed[7] ^= 1;
    let next = nodes[1].push("mail", &changed);
    nodes[1].retain_warm("mail", 1, vec![nodes[2].id(), nodes[3].id()]);
    nodes[1].wait_level(next.snapshot, 1).await;
    nodes[1].wait_level(pushed.snapshot, 1).await;
    harness::stop(&nodes[1..]).await;
}

/// Nobody but the server holds whole packs for good, and the server is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_as_fragments_alone_is_gathered_when_its_server_is_lost() {
    let tuning = Tuning { neighbours: 4, ..Tuning::default() };
    let nodes = harness::start(12, &tuning).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let bytes = harness::noise(2, 2 << 20);
    let pushed = nodes[0].push("files", &bytes);
    nodes[0].retain("files", 1);
    nodes[0].wait_level(pushed.snapshot, 1).await;
    nodes[0].cluster.break_off();
    nodes[7].cluster.gather(pushed.snapshot, silent()).await.unwrap();
    assert_eq!(nodes[7].restored(pushed.snapshot), bytes);
    harness::stop(&nodes[1..]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_takes_its_copies_back() {
    let nodes = harness::start(4, &Tuning::default()).await;
    let snapshot = nodes[0].push("mail", &harness::noise(1, 300_000)).snapshot;
    nodes[0].retain("mail", 1);
    nodes[0].wait_level(snapshot, 2).await;
    nodes[0].cluster.remove(nodes[3].id()).await.unwrap();
    let is_level = |event: &&Event| matches!(event, Event::Level(..));
    let falls =
        |events: &[Event]| events.iter().rev().find(is_level) == Some(&Event::Level(snapshot, Some(1)));
    nodes[0].recorder.wait("a lower level", falls).await;
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_has_its_own_tolerance() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let lax = nodes[0].push("lax", &harness::noise(1, 100_000)).snapshot;
    let strict = nodes[0].push("strict", &harness::noise(2, 100_000)).snapshot;
    nodes[0].retain("lax", 0);
    nodes[0].retain("strict", 1);
    nodes[0].wait_level(lax, 0).await;
    nodes[0].wait_level(strict, 0).await;
    let is_durable = |id| nodes[0].store.snapshots(None).unwrap().iter().any(|it| it.id == id && it.durable);
    assert!(is_durable(lax) && !is_durable(strict));
    let status = nodes[0].cluster.keeping().await.unwrap();
    let of = |id| status.snapshots.iter().find(|it| it.snapshot == id).map(|it| it.survives);
    assert_eq!((of(lax), of(strict)), (Some(Some(0)), Some(Some(0))));
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_keeps_and_gives_its_own_whatever_its_limit_on_storage() {
    let mut configs = harness::configs(2, &Tuning::default());
    configs[0].1.share.storage_bytes = Some(1_000);
    let nodes = configs.into_iter().zip(0..);
    let nodes: Vec<TestNode> =
        nodes.map(|((socket, config), number)| TestNode::start(number, socket, config)).collect();
    let bytes = harness::noise(1, 300_000);
    let snapshot = nodes[0].push("mail", &bytes).snapshot;
    nodes[0].retain("mail", 0);
    nodes[0].wait_level(snapshot, 0).await;
    assert_eq!(nodes[1].restored(snapshot), bytes);
    assert_eq!(nodes[0].cluster.keeping().await.unwrap().short_bytes, 0);
    harness::stop(&nodes).await;
}

/// Prints how long it takes until deltas are durable, and what the server sends for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
#[expect(clippy::print_stdout, reason = "it is what it is for")]
async fn measured() {
    for upload in [None, Some(10_000_000)] {
        let mut configs = harness::configs(5, &Tuning::default());
        configs[0].1.share.upload_bytes_per_second = upload;
        let nodes = configs.into_iter().zip(0..);
        let nodes: Vec<TestNode> =
            nodes.map(|((socket, config), number)| TestNode::start(number, socket, config)).collect();
        for changed in [24 << 20, 20 << 20, 64 << 10] {
            // So that what the uplink may save up is the same each time.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            let mut bytes = harness::noise(1, 24 << 20);
            bytes[..changed].copy_from_slice(&harness::noise(changed as u64, changed));
            let before = bulk_bytes_sent(&nodes[0], &nodes[1..]);
            let pushed = nodes[0].push("mail", &bytes);
            let started = Instant::now();
            nodes[0].retain("mail", 1);
            nodes[0].wait_level(pushed.snapshot, 1).await;
            let durable = started.elapsed();
            nodes[0].wait_level(pushed.snapshot, 3).await;
            let all = started.elapsed();
            let sent = bulk_bytes_sent(&nodes[0], &nodes[1..]).saturating_sub(before);
            println!(
                "upload {upload:?}: {} new, durable {durable:?}, all {all:?}, {sent} sent",
                pushed.bytes_new
            );
        }
        harness::stop(&nodes).await;
    }
}
