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
        nodes[0].cluster.spread(snapshot, 1);
        nodes[0].recorder.wait("durable", |events| durable(events, snapshot).is_some()).await;
        assert_eq!(durable(&nodes[0].recorder.events(), snapshot), Some(2), "said as soon as two have it");
        let info = nodes[0].store.snapshots(None).unwrap();
        assert!(info.iter().any(|info| info.id == snapshot && info.durable), "marked in the server's store");
        for node in &nodes[1..] {
            node.recorder.wait("import", |events| imported(events, snapshot)).await;
            assert_eq!(node.restored(snapshot), bytes, "round {round}");
        }
    }
    let said = |event: &&Event| matches!(event, Event::Durable(..));
    assert_eq!(nodes[0].recorder.events().iter().filter(said).count(), 3, "each once");
    let known = nodes[1].cluster.known_snapshots(&harness::service_name("mail")).await;
    assert_eq!(known.len(), 4);
    assert!(known.iter().all(|(_, list)| list.len() == 3 && list[2].seq > list[0].seq), "{known:?}");
    harness::stop(&nodes).await;
}

fn durable(events: &[Event], snapshot: sustain_proto::SnapshotId) -> Option<usize> {
    events.iter().find_map(|event| match event {
        Event::Durable(id, copies) if *id == snapshot => Some(*copies),
        _ => None,
    })
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
    server.cluster.spread(first, 1);
    peer.recorder.wait("import", |events| imported(events, first)).await;
    // Two copies with the server's own, but only one other node.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(durable(&server.recorder.events(), first), None);
    let mut changed = bytes.clone();
    changed[5] ^= 1;
    let second = server.push("mail", &changed).snapshot;
    server.cluster.spread(second, 1);
    peer.recorder.wait("import", |events| imported(events, second)).await;
    // The third comes, and is sent the newest only.
    let third = start();
    server.recorder.wait("durable", |events| durable(events, second) == Some(2)).await;
    assert_eq!(third.restored(second), changed);
    assert_eq!(durable(&server.recorder.events(), first), None, "one copy, for ever");
    harness::stop(&[server, peer, third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_away_gets_the_newest() {
    let nodes = harness::start(3, &Tuning::default()).await;
    nodes[2].cluster.shutdown().await;
    let mut bytes = harness::noise(1, 400_000);
    let mut last = None;
    for round in 0..4 {
        bytes[round] ^= 0xff;
        let snapshot = nodes[0].push("mail", &bytes).snapshot;
        nodes[0].cluster.spread(snapshot, 0);
        nodes[0].recorder.wait("durable", |events| durable(events, snapshot).is_some()).await;
        last = Some(snapshot);
    }
    let last = last.unwrap();
    let again = nodes[2].again().await;
    nodes[2].recorder.wait("import", |events| imported(events, last)).await;
    assert_eq!(nodes[2].restored(last), bytes);
    let has = nodes[2].store.snapshots(None).unwrap();
    assert_eq!(has.len(), 2, "the base and the newest, nothing between: {has:?}");
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
    nodes[0].cluster.spread(report.base, 0);
    nodes[0].cluster.spread_held(service, report.held.clone());
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
async fn a_snapshot_that_does_not_exist_harms_nothing() {
    let nodes = harness::start(2, &Tuning::default()).await;
    nodes[0].cluster.spread(sustain_proto::SnapshotId::from_bytes([3; 32]), 0);
    let snapshot = nodes[0].push("mail", b"small").snapshot;
    nodes[0].cluster.spread(snapshot, 0);
    nodes[0].recorder.wait_for(Event::Durable(snapshot, 1)).await;
    assert_eq!(nodes[1].restored(snapshot), b"small");
    harness::stop(&nodes).await;
}
