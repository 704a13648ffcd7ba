//! Nodes that join, move and are removed while the others run.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Endpoint};
use sustain_proto::join::{JOIN_ALPN, JoinRefusal, JoinRequest, Token};
use sustain_proto::wire::Lane;
use sustain_proto::{NodeId, encode_frame};

use super::harness::{self, Event, PATIENCE, TestNode};
use super::trust::call;
use crate::membership::Health;
use crate::{ClusterConfig, JoinError, NodeKey, Peer, StartError, Tuning, join, limits, tls};

const DAY: Duration = Duration::from_secs(86_400);

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn keep_rosters(nodes: &mut [(UdpSocket, ClusterConfig)], folder: &Path) {
    for (number, (_, config)) in nodes.iter_mut().enumerate() {
        config.roster = Some(folder.join(format!("{number}.roster")));
    }
}

async fn start(nodes: Vec<(UdpSocket, ClusterConfig)>) -> Vec<TestNode> {
    let started: Vec<TestNode> = nodes
        .into_iter()
        .zip(0..)
        .map(|((socket, config), number)| TestNode::start(number, socket, config))
        .collect();
    for node in &started {
        let others: Vec<NodeId> = started.iter().map(TestNode::id).filter(|id| *id != node.id()).collect();
        node.wait_reachable(&others).await;
    }
    started
}

/// A configuration of a node that joins, as `snapctl join` writes it: it names the inviter only.
async fn join_by(
    inviter: &TestNode,
    token: &Token,
    name: &str,
) -> Result<(UdpSocket, ClusterConfig), JoinError> {
    let key = NodeKey::generate().unwrap();
    let socket = harness::bind();
    let listen = socket.local_addr().unwrap();
    let mut own = inviter.config.own.clone();
    own.name = name.to_owned();
    own.address = listen;
    let welcome = join(&key, token, own).await?;
    assert_eq!(welcome.cluster, "test");
    let inviter = Peer::of(inviter.id(), &inviter.config.own);
    let config = ClusterConfig {
        key,
        cluster: welcome.cluster,
        listen,
        own: welcome.details,
        peers: vec![inviter],
        roster: None,
        share: crate::Share::default(),
        tuning: Tuning::default(),
    };
    Ok((socket, config))
}

fn knows(node: &TestNode, other: NodeId) -> bool {
    node.cluster.peers().iter().any(|peer| peer.peer.id == other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_by_any_member_and_all_know_it() {
    let mut nodes = harness::start(3, &Tuning::default()).await;
    let bytes = harness::noise(1, 100_000);
    nodes[0].push("mail", &bytes);
    let token = nodes[2].cluster.invite(false, DAY).await.unwrap();
    let (socket, config) = join_by(&nodes[2], &token, "fourth").await.unwrap();
    let joined = TestNode::start(3, socket, config);
    let others: Vec<NodeId> = nodes.iter().map(TestNode::id).collect();
    // It was told of one, and hears of the others.
    joined.wait_reachable(&others).await;
    for node in &nodes {
        node.wait_reachable(&[joined.id()]).await;
        until("the name", || node.cluster.peers().iter().any(|peer| peer.peer.name == "fourth")).await;
    }
    nodes.push(joined);
    until("everyone's health", || {
        nodes.iter().all(|node| {
            let peers = node.cluster.peers();
            peers.len() == 3 && peers.iter().all(|peer| peer.health == Health::Alive && peer.neighbour)
        })
    })
    .await;
    // And it takes part: what is retained now reaches it, too.
    let snapshot = nodes[0].push("mail", &bytes).snapshot;
    nodes[0].retain("mail", 2);
    nodes[0].wait_level(snapshot, 2).await;
    assert_eq!(nodes[3].restored(snapshot), bytes);
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_works_once_and_only_at_its_maker() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let stranger = NodeKey::generate().unwrap();
    let own = Peer::of(stranger.node_id(), &nodes[0].config.own);
    let mut own = own.details();
    own.name = "third".to_owned();
    own.address = "0.0.0.0:9".parse().unwrap();
    let forged = Token { inviter: nodes[0].id(), addresses: vec![nodes[0].address()], secret: [1; 16] };
    let error = join(&stranger, &forged, own.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::NoInvitation { .. }), "no stranger passes TLS: {error:?}");
    let token = nodes[0].cluster.invite(false, DAY).await.unwrap();
    let error = join(&stranger, &forged, own.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(JoinRefusal::Unknown)), "{error:?}");
    let elsewhere = Token { addresses: vec![nodes[1].address()], ..token.clone() };
    let error = join(&stranger, &elsewhere, own.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::OtherNode { .. }), "{error:?}");
    let nowhere = Token { addresses: vec![harness::bind().local_addr().unwrap()], ..token.clone() };
    let error = join(&stranger, &nowhere, own.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error:?}");
    let mut taken = own.clone();
    taken.name = "node1".to_owned();
    let error = join(&stranger, &token, taken).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(JoinRefusal::NameTaken { .. })), "{error:?}");
    // None of that has used it up.
    let welcome = join(&stranger, &token, own.clone()).await.unwrap();
    assert_eq!(welcome.details.address, "127.0.0.1:9".parse().unwrap(), "where it calls from");
    join(&stranger, &token, own.clone()).await.expect("the same node may ask again");
    let other = NodeKey::generate().unwrap();
    own.name = "fourth".to_owned();
    own.address.set_port(10);
    let error = join(&other, &token, own.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::NoInvitation { .. }), "the door is closed: {error:?}");
    nodes[0].cluster.invite(false, DAY).await.unwrap();
    let error = join(&other, &token, own).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(JoinRefusal::Used)), "{error:?}");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_told_and_refused_also_after_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut configs = harness::configs(3, &Tuning::default());
    keep_rosters(&mut configs, folder.path());
    let nodes = start(configs).await;
    let removed = nodes[1].id();
    nodes[0].cluster.remove(removed).await.unwrap();
    assert!(!knows(&nodes[0], removed));
    until("the other hears of it", || !knows(&nodes[2], removed)).await;
    // It is shown the removal, and knows by whom.
    until("the removed one hears of it", || !nodes[1].cluster.removed().is_empty()).await;
    nodes[1].cluster.shutdown().await;
    let socket = harness::bind_again(nodes[1].address()).await;
    let error = crate::Cluster::start_on(
        socket,
        nodes[1].config.clone(),
        nodes[1].store.clone(),
        nodes[1].recorder.clone(),
    );
    assert!(matches!(error, Err(StartError::Removed { .. })), "{error:?}");
    // With its roster lost, and all others started again: it is refused by what they have kept.
    for node in [&nodes[0], &nodes[2]] {
        node.cluster.shutdown().await;
        node.recorder.forget();
    }
    let again = [nodes[0].again().await, nodes[2].again().await];
    std::fs::remove_file(nodes[1].config.roster.as_ref().unwrap()).unwrap();
    nodes[1].recorder.forget();
    let outcast = nodes[1].again().await;
    until("it is told anew", || !outcast.removed().is_empty()).await;
    for cluster in &again {
        assert!(cluster.peers().iter().all(|peer| peer.peer.id != removed));
    }
    for event in nodes[0].recorder.events() {
        assert!(event != Event::Changed(removed, true), "it was reached");
    }
    outcast.shutdown().await;
    for cluster in again {
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moves_is_found_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut configs = harness::configs(3, &Tuning::default());
    keep_rosters(&mut configs, folder.path());
    let nodes = start(configs).await;
    let (id, old) = (nodes[2].id(), nodes[2].address());
    nodes[2].cluster.shutdown().await;
    for node in &nodes[..2] {
        node.recorder.wait_for(Event::Changed(id, false)).await;
        node.recorder.forget();
    }
    let socket = harness::bind();
    let address = socket.local_addr().unwrap();
    assert_ne!(address, old);
    let mut config = nodes[2].config.clone();
    (config.listen, config.own.address) = (address, address);
    let moved = TestNode::start(2, socket, config);
    for node in &nodes[..2] {
        node.wait_reachable(&[id]).await;
        assert!(node.cluster.peers().iter().any(|peer| peer.peer.address == address));
    }
    // Those that were told keep it, also when they start again.
    nodes[0].cluster.shutdown().await;
    let again = nodes[0].again().await;
    until("the moved one", || again.peers().iter().all(|peer| peer.reachable)).await;
    again.shutdown().await;
    moved.cluster.shutdown().await;
    nodes[1].cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_roster_is_named_and_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let mut configs = harness::configs(1, &Tuning::default());
    keep_rosters(&mut configs, folder.path());
    let (_, config) = &configs[0];
    let path = config.roster.clone().unwrap();
    std::fs::write(&path, b"SURf\x01\x00 something else").unwrap();
    let error = crate::start_up::roster(config, config.listen).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{error}");
    std::fs::remove_file(&path).unwrap();
    crate::start_up::roster(config, config.listen).unwrap();
    crate::start_up::roster(config, config.listen).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
}

/// While an invitation is open TLS lets anybody through. All that a stranger can do then is to ask to join.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_one_question_and_only_while_somebody_is_invited() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (target, stranger) = (&nodes[0], NodeKey::generate().unwrap());
    assert!(call(target, &stranger, target.id(), JOIN_ALPN).await.is_some(), "nobody is invited");
    let token = target.cluster.invite(false, DAY).await.unwrap();
    for lane in Lane::ALL {
        let refused =
            call(target, &stranger, target.id(), lane.alpn()).await.expect("no lane is for strangers");
        assert!(refused.contains("not in this cluster"), "{refused}");
    }
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connect = async || {
        let crypto = tls::client_speaking(&stranger, target.id(), JOIN_ALPN).unwrap();
        let config = ClientConfig::new(Arc::new(crypto));
        endpoint.connect_with(config, target.address(), tls::SERVER_NAME).unwrap().await.unwrap()
    };
    // What is no request, or too long for one, ends it.
    let details = target.config.own.clone();
    let proper = encode_frame(&JoinRequest { secret: [1; 16], details }, 1_024).unwrap();
    let mut long = proper.clone();
    long[6..10].copy_from_slice(&100_000_u32.to_le_bytes());
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &long, &proper[..proper.len() - 9]] {
        let connection = connect().await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
        tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is closed");
    }
    // Streams that never end: one each, four connections at once, and no more.
    let mut open = Vec::new();
    for _ in 0..limits::JOINS_AT_ONCE {
        let connection = connect().await;
        let streams = connection.open_bi().await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(100), connection.open_bi()).await;
        assert!(second.is_err(), "one question");
        let unasked = tokio::time::timeout(Duration::from_millis(50), connection.open_uni()).await;
        assert!(unasked.is_err(), "and nothing else");
        open.push((connection, streams));
    }
    let reason = tokio::time::timeout(PATIENCE, connect().await.closed()).await.unwrap().to_string();
    assert!(reason.contains("too many"), "{reason}");
    // They are dropped after a while, and who is invited comes in.
    let begun = tokio::time::Instant::now();
    for (connection, _streams) in &open {
        tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is closed");
    }
    assert!(begun.elapsed() <= limits::JOIN_TIMEOUT + Duration::from_secs(3));
    join_by(target, &token, "third").await.unwrap();
    assert!(nodes[1].recorder.events().iter().all(|event| !matches!(event, Event::Changed(_, false))));
    harness::stop(&nodes).await;
}
