//! Who is let in.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Endpoint};
use sustain_proto::NodeId;
use sustain_proto::wire::Lane;

use super::harness::{self, PATIENCE, TestNode};
use crate::{NodeKey, Tuning, tls};

/// Calls a node with any key, expecting any key, speaking any protocol. The reason why it was refused, or
/// nothing if the connection still stands after it was let in or not.
pub(super) async fn call(
    target: &TestNode,
    key: &NodeKey,
    expected: NodeId,
    protocol: &[u8],
) -> Option<String> {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::new(Arc::new(tls::client_speaking(key, expected, protocol).unwrap()));
    let connecting = endpoint.connect_with(config, target.address(), tls::SERVER_NAME).unwrap();
    let connection = match tokio::time::timeout(PATIENCE, connecting).await.unwrap() {
        Ok(connection) => connection,
        Err(error) => return Some(error.to_string()),
    };
    // The caller is through before the other side has looked at its key, so the verdict comes later: either
    // the connection ends, or the other side opens it for streams.
    tokio::select! {
        error = connection.closed() => Some(error.to_string()),
        stream = connection.open_bi() => stream.err().map(|error| error.to_string()),
        () = tokio::time::sleep(PATIENCE) => panic!("no verdict"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pinned_keys_and_known_protocols_are_let_in() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (target, known) = (&nodes[0], &nodes[1].config.key);
    for lane in Lane::ALL {
        assert_eq!(call(target, known, target.id(), lane.alpn()).await, None, "{lane:?}");
    }
    let stranger = NodeKey::generate().unwrap();
    for lane in Lane::ALL {
        assert!(call(target, &stranger, target.id(), lane.alpn()).await.is_some(), "an unknown key");
    }
    assert!(call(target, known, stranger.node_id(), Lane::Bulk.alpn()).await.is_some(), "an unexpected key");
    for protocol in [&b"sustain-control/2"[..], b"h3", b"sustain-control"] {
        assert!(call(target, known, target.id(), protocol).await.is_some(), "another protocol");
    }
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_knows_the_cluster_never_takes_part() {
    let mut configs = harness::configs(3, &Tuning::default());
    // The first two have never heard of the third.
    let stranger = configs[2].1.key.node_id();
    for (_, config) in &mut configs[..2] {
        config.peers.retain(|peer| peer.id != stranger);
    }
    let nodes: Vec<TestNode> = configs
        .into_iter()
        .zip(0..)
        .map(|((socket, config), number)| TestNode::start(number, socket, config))
        .collect();
    nodes[0].wait_reachable(&[nodes[1].id()]).await;
    nodes[1].wait_reachable(&[nodes[0].id()]).await;
    // Several probe intervals and dials.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(nodes[2].cluster.peers().iter().all(|peer| !peer.reachable));
    assert_eq!(nodes[2].recorder.events(), []);
    let service = harness::service_name("mail");
    for node in &nodes[..2] {
        let error =
            nodes[2].cluster.forward(node.id(), service.clone(), harness::ECHO_PORT).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unreachable, "{error}");
    }
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_node_at_anothers_address_is_not_taken_for_it() {
    let mut configs = harness::configs(3, &Tuning::default());
    let peers = &mut configs[0].1.peers;
    let (first, second) = (peers[0].address, peers[1].address);
    (peers[0].address, peers[1].address) = (second, first);
    let nodes: Vec<TestNode> = configs
        .into_iter()
        .zip(0..)
        .map(|((socket, config), number)| TestNode::start(number, socket, config))
        .collect();
    // The others reach the confused one, whose own address is right, and tell it where they are.
    nodes[1].wait_reachable(&[nodes[0].id(), nodes[2].id()]).await;
    nodes[2].wait_reachable(&[nodes[0].id(), nodes[1].id()]).await;
    nodes[0].wait_reachable(&[nodes[1].id(), nodes[2].id()]).await;
    for peer in nodes[0].cluster.peers() {
        let node = nodes.iter().find(|node| node.id() == peer.peer.id).unwrap();
        assert_eq!(peer.peer.address, node.cluster.local_address());
    }
    harness::stop(&nodes).await;
}
