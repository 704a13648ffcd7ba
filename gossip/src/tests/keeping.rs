//! Snapshots are kept by all nodes, which fetch what they lack.

use std::time::{Duration, Instant};

use sustain_proto::wire::Lane;

use super::harness::{self, TestNode};
use crate::Tuning;

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
    let bytes = harness::noise(1, 20 << 20);
    let pushed = nodes[0].push("mail", &bytes);
    let started = Instant::now();
    nodes[0].retain("mail", 1);
    nodes[0].wait_level(pushed.snapshot, 1).await;
    println!("durable at 1 after {:?}", started.elapsed());
    nodes[0].wait_level(pushed.snapshot, 3).await;
    println!("at all after {:?}", started.elapsed());
    for node in &nodes[1..] {
        assert_eq!(node.restored(pushed.snapshot), bytes);
    }
    let sent = bulk_bytes_sent(&nodes[0], &nodes[1..]);
    println!("sent {sent} of {}", bytes.len());
    assert!(sent * 10 <= bytes.len() as u64 * 13, "{sent} bytes");
    tokio::time::sleep(Duration::from_millis(100)).await;
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_deltas_are_durable_soon() {
    let nodes = harness::start(5, &Tuning::default()).await;
    let mut bytes = harness::noise(1, 1 << 20);
    for round in 0..10 {
        bytes[round * 4_000] ^= 1;
        let pushed = nodes[0].push("mail", &bytes);
        let started = Instant::now();
        nodes[0].retain("mail", 1);
        nodes[0].wait_level(pushed.snapshot, 1).await;
        let durable = started.elapsed();
        nodes[0].wait_level(pushed.snapshot, 3).await;
        println!("durable after {durable:?}, all after {:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    harness::stop(&nodes).await;
}
