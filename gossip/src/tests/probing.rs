//! Messages, requests, and who can be reached.

use std::time::Duration;

use sustain_proto::wire::{Heartbeat, Message, Request, Response};
use sustain_proto::{NodeId, Term};

use super::harness::{self, Event, PATIENCE, TestNode, service_name};
use crate::{ErrorKind, Tuning};

fn heartbeat(from: NodeId, seq: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        service: service_name("mail"),
        term: Term { counter: 1, node: from, nonce: 5 },
        origin: None,
        running_seq: seq,
        durable: None,
        level: 0,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_requests_arrive() {
    let nodes = harness::start(3, &Tuning::default()).await;
    assert_eq!(nodes[0].cluster.broadcast(&heartbeat(nodes[0].id(), 1)), 2);
    assert!(nodes[0].cluster.send(nodes[1].id(), heartbeat(nodes[0].id(), 2)));
    for node in &nodes[1..] {
        node.recorder.wait_for(Event::Message(nodes[0].id(), heartbeat(nodes[0].id(), 1))).await;
    }
    nodes[1].recorder.wait_for(Event::Message(nodes[0].id(), heartbeat(nodes[0].id(), 2))).await;
    assert!(!nodes[0].cluster.send(nodes[0].id(), heartbeat(nodes[0].id(), 3)), "not to itself");

    let poll = Request::Poll { service: service_name("mail"), lost: None };
    let answer = nodes[0].cluster.request(nodes[2].id(), poll, PATIENCE).await.unwrap();
    assert!(matches!(answer, Response::Ballot(ballot) if ballot.priority == 2));
    let term = Term { counter: 1, node: nodes[0].id(), nonce: 5 };
    let claim = Request::Claim { service: service_name("mail"), term, origin: None };
    let error = nodes[0].cluster.request(nodes[2].id(), claim.clone(), PATIENCE).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("not today")), (ErrorKind::Refused, true));
    let stranger = NodeId::from_bytes([1; 32]);
    let error = nodes[0].cluster.request(stranger, claim, PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let peers = nodes[0].cluster.peers();
    assert!(peers.iter().all(|peer| peer.reachable && peer.neighbour && peer.rtt_ms.is_some()), "{peers:?}");
    assert_eq!(nodes[0].cluster.neighbours().len(), 2);
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_leaves_is_lost_and_found_again() {
    // Silence alone would take far longer than the test: what is seen is that the peer says goodbye.
    let tuning = Tuning { probe_timeout_ms: 600_000, idle_timeout_ms: 600_000, ..Tuning::default() };
    let nodes = harness::start(3, &tuning).await;
    let leaver = nodes[2].id();
    nodes[2].cluster.shutdown().await;
    for node in &nodes[..2] {
        node.recorder.wait_for(Event::Changed(leaver, false)).await;
        assert!(node.cluster.peers().iter().all(|peer| peer.reachable == (peer.peer.id != leaver)));
        let poll = Request::Poll { service: service_name("mail"), lost: None };
        let error = node.cluster.request(leaver, poll, PATIENCE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        node.recorder.forget();
    }
    let again = nodes[2].again().await;
    for node in &nodes[..2] {
        node.recorder.wait_for(Event::Changed(leaver, true)).await;
    }
    again.shutdown().await;
    harness::stop(&nodes).await;
}

/// A goodbye that only the endpoint said was lost now and then: its tasks were late, and the last handle of a
/// connection went first, which ends it with another code. The peer took that for a fault and waited for it to pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_does_not_wait_for_the_endpoints_tasks() {
    let tuning = Tuning { probe_timeout_ms: 600_000, idle_timeout_ms: 600_000, ..Tuning::default() };
    let nodes = harness::start(2, &tuning).await;
    // Held, so that the endpoint itself does not end: nothing but the goodbye is there to be seen.
    let endpoint = nodes[1].cluster.say_goodbye();
    assert!(endpoint.is_some());
    nodes[0].recorder.wait_for(Event::Changed(nodes[1].id(), false)).await;
    nodes[0].cluster.shutdown().await;
    endpoint.unwrap().close(0_u32.into(), b"");
    nodes[1].cluster.shutdown().await;
}

#[test]
fn a_killed_peer_that_comes_back_is_known_at_once_as_another_run() {
    let main = tokio::runtime::Runtime::new().unwrap();
    let doomed = tokio::runtime::Runtime::new().unwrap();
    // Connections of the killed node never time out here: that they are dead is told by the new run.
    let tuning = Tuning { idle_timeout_ms: 600_000, ..Tuning::default() };
    let mut configs = harness::configs(2, &tuning).into_iter();
    let ((socket, config), (other_socket, other_config)) = (configs.next().unwrap(), configs.next().unwrap());
    let node = main.block_on(async { TestNode::start(0, socket, config) });
    let victim = doomed.block_on(async { TestNode::start(1, other_socket, other_config) });
    let service = service_name("mail");
    let poll = || node.cluster.known_snapshots(&service);
    main.block_on(async {
        node.wait_reachable(&[victim.id()]).await;
        assert_eq!(poll().await.len(), 1, "the bulk lane stands");
    });
    // As by `kill -9`: no task runs any more, and nobody is told.
    doomed.shutdown_background();
    let (id, folder) = (victim.id(), victim.folder);
    drop(victim.cluster);
    main.block_on(async {
        node.recorder.wait_for(Event::Changed(id, false)).await;
        node.recorder.forget();
        let again = harness::again(&victim.config, &victim.store, &victim.recorder).await;
        node.recorder.wait_for(Event::Changed(id, true)).await;
        let until = tokio::time::Instant::now() + PATIENCE;
        while poll().await.is_empty() {
            assert!(tokio::time::Instant::now() < until, "the old bulk connection is still believed in");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        again.shutdown().await;
        node.cluster.shutdown().await;
    });
    drop(folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_all_tasks_and_frees_the_port() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (cluster, address) = (nodes[0].cluster.clone(), nodes[0].address());
    cluster.shutdown().await;
    cluster.shutdown().await;
    assert_eq!(cluster.tasks_running(), 0);
    // The handle still exists, the socket doesn't.
    drop(harness::bind_again(address).await);
    let poll = Request::Poll { service: service_name("mail"), lost: None };
    let error = cluster.request(nodes[1].id(), poll, PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!cluster.send(nodes[1].id(), heartbeat(nodes[0].id(), 1)));
    harness::stop(&nodes).await;
}
