//! Snapshots from one node to the others.

use std::time::Duration;

use super::harness::{self, Event, TestNode};
use crate::Tuning;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_reach_all_peers_and_restore_there_bit_by_bit() {
    let nodes = harness::start(5, &Tuning::default()).await;
    let mut bytes = harness::noise(1, 3_000_000);
    for round in 0..3_u8 {
        bytes[usize::from(round) * 500_000..][..100_000].fill(round);
        let snapshot = nodes[0].push("mail", &bytes).snapshot;
        nodes[0].retain("mail", 1);
        nodes[0].wait_level(snapshot, 1).await;
        let info = nodes[0].store.snapshots(None).unwrap();
        assert!(info.iter().any(|info| info.id == snapshot && info.durable), "marked in the server's store");
        for node in &nodes[1..] {
            node.recorder.wait("import", |events| imported(events, snapshot)).await;
            assert_eq!(node.restored(snapshot), bytes, "round {round}");
        }
    }
    let known = nodes[1].cluster.known_snapshots(&harness::service_name("mail")).await;
    assert_eq!(known.len(), 4);
    assert!(known.iter().all(|(_, list)| list.len() == 3 && list[2].seq > list[0].seq), "{known:?}");
    harness::stop(&nodes).await;
}

fn is_durable(node: &TestNode, snapshot: sustain_proto::SnapshotId) -> bool {
    node.store.snapshots(None).unwrap().iter().any(|info| info.id == snapshot && info.durable)
}

fn imported(events: &[Event], snapshot: sustain_proto::SnapshotId) -> bool {
    events.iter().any(|event| matches!(event, Event::Imported(ids) if ids.contains(&snapshot)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_peers_never_make_durable_until_more_come() {
    let mut configs = harness::configs(3, &Tuning::default()).into_iter().zip(0..);
    let mut start =
        || configs.next().map(|((socket, config), n)| TestNode::start(n, socket, config)).unwrap();
    let (server, peer) = (start(), start());
    server.wait_reachable(&[peer.id()]).await;
    let bytes = harness::noise(1, 300_000);
    let first = server.push("mail", &bytes).snapshot;
    server.retain("mail", 1);
    server.wait_level(first, 0).await;
    assert_eq!(peer.restored(first), bytes);
    // Two copies with the server's own, but only one other node.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!is_durable(&server, first));
    let mut changed = bytes.clone();
    changed[5] ^= 1;
    let second = server.push("mail", &changed).snapshot;
    server.retain("mail", 1);
    server.wait_level(second, 0).await;
    let third = start();
    server.wait_level(second, 1).await;
    assert_eq!(third.restored(second), changed);
    server.wait_level(first, 1).await;
    assert!(is_durable(&server, first) && is_durable(&server, second));
    harness::stop(&[server, peer, third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_away_gets_what_is_retained() {
    let nodes = harness::start(3, &Tuning::default()).await;
    nodes[2].cluster.shutdown().await;
    let mut bytes = harness::noise(1, 400_000);
    let mut last = None;
    for round in 0..4 {
        bytes[round] ^= 0xff;
        let snapshot = nodes[0].push("mail", &bytes).snapshot;
        nodes[0].retain("mail", 0);
        nodes[0].wait_level(snapshot, 0).await;
        last = Some(snapshot);
    }
    let last = last.unwrap();
    let again = nodes[2].again().await;
    nodes[2].recorder.wait("import", |events| imported(events, last)).await;
    assert_eq!(nodes[2].restored(last), bytes);
    let has = nodes[2].store.snapshots(None).unwrap();
    assert_eq!(has.len(), 4, "the base and all its deltas: {has:?}");
    again.shutdown().await;
    harness::stop(&nodes).await;
}

/// Only the newest snapshot was sent: what a rebase had kept besides stayed on its server alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rebase_has_kept_reaches_peers_too_also_one_that_was_away() {
    let nodes = harness::start(3, &Tuning::default()).await;
    nodes[2].cluster.shutdown().await;
    let mut states = vec![harness::noise(1, 400_000)];
    for round in 1..4 {
        let mut next = states[round - 1].clone();
        next[round * 70_000] ^= 0xff;
        states.push(next);
    }
    states.iter().for_each(|state| drop(nodes[0].push("mail", state)));
    let service = harness::service_name("mail");
    let retention = sustain_store::Retention { keep_last: 3, ..sustain_store::Retention::NOTHING };
    let options = sustain_store::RebaseOptions { retention, ..sustain_store::RebaseOptions::default() };
    let prepared = nodes[0].store.prepare_rebase_with(&service, options, &sustain_store::NoProgress).unwrap();
    let report = prepared.commit(Duration::from_secs(5)).unwrap();
    assert_eq!(report.held.len(), 2);
    nodes[0].retain("mail", 0);
    let again = nodes[2].again().await;
    for node in &nodes[1..] {
        for (held, state) in report.held.iter().zip([&states[2], &states[1]]) {
            node.recorder.wait("import", |events| imported(events, *held)).await;
            assert_eq!(&node.restored(*held), state);
        }
        assert_eq!(node.restored(report.base), states[3]);
    }
    again.shutdown().await;
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_without_snapshots_harms_nothing() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (origin, warm, merged) = (None, Vec::new(), std::collections::BTreeSet::new());
    let term = sustain_proto::Term { counter: 1, node: nodes[0].id(), nonce: 1 };
    let service = harness::service_name("mail");
    nodes[0].cluster.retain(crate::Retain { service, term, origin, tolerance: 0, warm, merged });
    let snapshot = nodes[0].push("mail", b"small").snapshot;
    nodes[0].retain("mail", 0);
    nodes[0].wait_level(snapshot, 0).await;
    assert_eq!(nodes[1].restored(snapshot), b"small");
    harness::stop(&nodes).await;
}
