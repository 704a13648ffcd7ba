//! Members that misbehave: they are named and shut out, what they make a node hold is bounded, and others are served.

use std::time::Duration;

use bytes::Bytes;
use foca::{Header, Message as Packets};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use sustain_proto::wire::{Heartbeat, Lane, Message, Request};
use sustain_proto::{FRAME_HEADER_BYTES, NodeId, SnapshotId, Term, encode_frame};

use super::gathering::silent;
use super::harness::{self, Event, PATIENCE, TestNode, service_name};
use super::hostility::{ask, connect};
use crate::membership::{Health, Life, Packet};
use crate::transport::frames;
use crate::transport::quic::{CLOSE_REMOVED, CLOSE_SHUT_OUT};
use crate::{Tuning, limits};

/// Waits until the other side ends a connection, and says how.
pub(super) async fn ended(connection: &Connection) -> VarInt {
    match tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it stands") {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        other => panic!("{other:?}"),
    }
}

/// The last node is named and shut out at the first one, for this reason; and is not taken for dead.
pub(super) async fn is_shut_out(nodes: &[TestNode], reason: &str) {
    let (first, last) = (&nodes[0], nodes.last().unwrap());
    first.recorder.wait_for(Event::ShutOut(last.id(), reason.to_owned())).await;
    let events = first.recorder.events();
    let named = events.iter().filter(|event| matches!(event, Event::ShutOut(..))).count();
    assert_eq!(named, 1, "once: {events:?}");
    let peers = first.cluster.peers();
    let status = peers.iter().find(|peer| peer.peer.id == last.id()).unwrap();
    let (said, left_ms) = status.shut_out.clone().unwrap();
    assert!(said == reason && left_ms > 30_000, "{said}, {left_ms} ms");
    assert!(status.neighbour, "its place stays");
    let call = connect(first, last, Lane::Bulk).await;
    assert_eq!(ended(&call).await, CLOSE_SHUT_OUT, "its calls are refused");
    let request = Request::Snapshots { service: service_name("mail") };
    let answer = first.cluster.request(last.id(), request, PATIENCE).await.unwrap_err();
    assert!(answer.to_string().contains("shut out"), "nothing is asked of it: {answer}");
}

/// The first two nodes serve each other.
pub(super) async fn others_are_served(nodes: &[TestNode]) {
    let bytes = harness::noise(77, 300_000);
    let id = nodes[1].push("others", &bytes).snapshot;
    nodes[0].cluster.gather(id, silent()).await.unwrap();
    assert_eq!(nodes[0].restored(id), bytes);
    let echo = nodes[0].cluster.forward(nodes[1].id(), service_name("echo"), harness::ECHO_PORT).await;
    echo.unwrap();
}

/// Three nodes; the last one's key is in our hands. Where it would dial its connection anew, and so end ours, it does
/// not run any more.
pub(super) async fn three(lane: Lane) -> Vec<TestNode> {
    let nodes = harness::start(3, &Tuning::default()).await;
    if lane != Lane::Forward {
        nodes[2].cluster.shutdown().await;
    }
    nodes
}

/// Sends this on new streams until the other side has had enough. How many it took.
async fn repeat(connection: &Connection, lane: Lane, bytes: &[u8]) -> usize {
    for count in 0..1_000 {
        let stream = if lane == Lane::Control && count % 2 == 0 {
            connection.open_uni().await
        } else {
            connection.open_bi().await.map(|(send, _)| send)
        };
        let Ok(mut stream) = stream else { return count };
        if stream.write_all(bytes).await.is_err() {
            return count;
        }
        let _ = stream.finish();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it bears everything");
}

async fn garbage_on(lane: Lane, bytes: &[u8], reason: &str) {
    let nodes = three(lane).await;
    let connection = connect(&nodes[0], &nodes[2], lane).await;
    // Where the real third node runs, it has connections of its own on the others.
    let other_lane = (lane != Lane::Forward).then_some(Lane::Forward);
    let other = match other_lane {
        Some(other_lane) => Some(connect(&nodes[0], &nodes[2], other_lane).await),
        None => None,
    };
    let count = repeat(&connection, lane, bytes).await;
    assert!((5..60).contains(&count), "after some, and not after one: {count}");
    assert_eq!(ended(&connection).await, CLOSE_SHUT_OUT);
    if let Some(other) = other {
        assert_eq!(ended(&other).await, CLOSE_SHUT_OUT, "all of its connections end");
    }
    is_shut_out(&nodes, reason).await;
    others_are_served(&nodes).await;
    // The real third node hears why nobody answers it.
    let knows = || {
        let peers = nodes[2].cluster.peers();
        let first = peers.iter().find(|peer| peer.peer.id == nodes[0].id()).unwrap();
        first.obstacle.clone().is_some_and(|it| it.contains("shut this node out") && it.contains(reason))
    };
    if lane == Lane::Forward {
        super::membership::until("the reason", knows).await;
    }
    harness::stop(&nodes).await;
}

const NO_MESSAGE: &str = "it sends what is no message";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sends_garbage_on_the_control_lane_is_shut_out_and_others_are_served() {
    garbage_on(Lane::Control, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", NO_MESSAGE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sends_garbage_on_the_bulk_lane_is_shut_out_and_others_are_served() {
    let mut frame =
        encode_frame(&Request::GetManifest { id: SnapshotId::from_bytes([1; 32]) }, 1_000).unwrap();
    // A kind that there is not.
    frame[FRAME_HEADER_BYTES + 6] = 99;
    garbage_on(Lane::Bulk, &frame, NO_MESSAGE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sends_huge_frames_on_the_forward_lane_is_shut_out_and_others_are_served() {
    let mut frame =
        encode_frame(&Request::GetManifest { id: SnapshotId::from_bytes([1; 32]) }, 1_000).unwrap();
    frame[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    garbage_on(Lane::Forward, &frame, "it sends more than the limits allow").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_takes_the_wrong_lane_again_and_again_is_shut_out() {
    let frame = encode_frame(&Request::GetManifest { id: SnapshotId::from_bytes([1; 32]) }, 1_000).unwrap();
    garbage_on(Lane::Forward, &frame, "it sends requests on the wrong lane").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_for_another_server_is_shut_out_and_not_heard() {
    let nodes = three(Lane::Control).await;
    let term = Term { counter: 99, node: nodes[1].id(), nonce: 1 };
    let heartbeat = Message::Heartbeat(Heartbeat {
        service: service_name("mail"),
        term,
        origin: None,
        running_seq: 9,
        durable: None,
        level: 0,
    });
    let connection = connect(&nodes[0], &nodes[2], Lane::Control).await;
    let frame = encode_frame(&heartbeat, 10_000).unwrap();
    for _ in 0..3 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&frame).await.unwrap();
        let _ = stream.finish();
    }
    assert_eq!(ended(&connection).await, CLOSE_SHUT_OUT);
    is_shut_out(&nodes, "it speaks in the name of other nodes").await;
    assert!(!nodes[0].recorder.events().iter().any(|event| matches!(event, Event::Message(..))));
    harness::stop(&nodes).await;
}

fn packet(from: NodeId, to: NodeId) -> Bytes {
    let life = |node| Life { node, number: 0 };
    let header = Header { src: life(from), src_incarnation: 0, dst: life(to), message: Packets::Gossip };
    Packet { header, updates: Some(Vec::new()) }.encode().unwrap().into()
}

/// Sends datagrams until the other side ends the connection.
async fn pelt(connection: &Connection, datagram: &Bytes, count: usize) {
    for _ in 0..count {
        if connection.send_datagram_wait(datagram.clone()).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_in_the_name_of_others_are_not_heard_and_shut_their_sender_out() {
    let nodes = three(Lane::Control).await;
    let is_alive = || {
        let peers = nodes[0].cluster.peers();
        peers.iter().any(|peer| peer.peer.id == nodes[1].id() && peer.health == Health::Alive)
    };
    super::membership::until("the second node", is_alive).await;
    let connection = connect(&nodes[0], &nodes[2], Lane::Control).await;
    pelt(&connection, &packet(nodes[1].id(), nodes[0].id()), 50).await;
    assert_eq!(ended(&connection).await, CLOSE_SHUT_OUT);
    is_shut_out(&nodes, "it speaks in the name of other nodes").await;
    assert!(is_alive());
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_are_no_packets_shut_their_sender_out() {
    let nodes = three(Lane::Control).await;
    let connection = connect(&nodes[0], &nodes[2], Lane::Control).await;
    pelt(&connection, &vec![7; 1_150].into(), 50).await;
    assert_eq!(ended(&connection).await, CLOSE_SHUT_OUT);
    is_shut_out(&nodes, "it sends datagrams that are no packets").await;
    others_are_served(&nodes).await;
    harness::stop(&nodes).await;
}

/// Proper packets, and far too many: they would push out those of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_packets_shuts_its_sender_out() {
    let nodes = three(Lane::Control).await;
    let connection = connect(&nodes[0], &nodes[2], Lane::Control).await;
    let proper = packet(nodes[2].id(), nodes[0].id());
    let flood = async {
        while connection.close_reason().is_none() {
            pelt(&connection, &proper, 100).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.unwrap();
    assert_eq!(ended(&connection).await, CLOSE_SHUT_OUT);
    is_shut_out(&nodes, "it sends too many messages").await;
    harness::stop(&nodes).await;
}

type Endless = (SendStream, Option<RecvStream>);

/// Opens streams of which none ever ends, as many as it is let, and fills each as far as it is let. The streams, and
/// the bytes that went.
async fn fill(connection: &Connection, lane: Lane, body_bytes: u32) -> (Vec<Endless>, usize) {
    let mut header = encode_frame(&Message::Probe { nonce: 0 }, 1_000).unwrap();
    header.truncate(FRAME_HEADER_BYTES);
    header[6..10].copy_from_slice(&body_bytes.to_le_bytes());
    let (mut open, mut sent) = (Vec::new(), 0);
    let moment = Duration::from_millis(300);
    while let Ok(stream) = tokio::time::timeout(moment, connection.open_bi()).await {
        let (mut send, receive) = stream.unwrap();
        send.write_all(&header).await.unwrap();
        open.push((send, Some(receive)));
    }
    if lane == Lane::Control {
        while let Ok(stream) = tokio::time::timeout(moment, connection.open_uni()).await {
            open.push((stream.unwrap(), None));
        }
    }
    let chunk = vec![0; 64 * 1024];
    for (stream, _) in &mut open {
        // Until it takes no more, or is given up by the other side since it takes too long.
        while let Ok(Ok(written)) = tokio::time::timeout(moment / 10, stream.write(&chunk)).await {
            sent += written;
        }
    }
    (open, sent)
}

/// Each lane in turn: as many streams as there may be, none of which ever ends, with as many bytes as there may be.
/// What a node holds for that is what its limits say, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_streams_hold_no_more_than_the_limits_and_block_nobody_on_any_lane() {
    for lane in Lane::ALL {
        let nodes = three(lane).await;
        let connection = connect(&nodes[0], &nodes[2], lane).await;
        let (streams_max, window) = match lane {
            Lane::Control => (2 * limits::CONTROL_STREAMS_MAX, limits::CONTROL_WINDOW_BYTES),
            Lane::Bulk => (limits::BULK_STREAMS_MAX, limits::DATA_WINDOW_BYTES),
            Lane::Forward => (limits::FORWARD_STREAMS_MAX, limits::DATA_WINDOW_BYTES),
        };
        let (open, sent) = fill(&connection, lane, lane.frame_bytes_max() as u32).await;
        assert_eq!(open.len(), streams_max as usize, "{lane:?}: the number of streams is limited");
        // Frames that are being read, and what waits to be read.
        let held_max = streams_max as usize * lane.frame_bytes_max() + window as usize;
        assert!(sent <= held_max, "{lane:?}: {sent} bytes were taken, more than {held_max}");
        others_are_served(&nodes).await;
        harness::stop(&nodes).await;
    }
}

/// One that is removed might go on with the connections that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stand_when_their_node_is_removed_end_at_once() {
    let nodes = three(Lane::Control).await;
    let (target, caller) = (&nodes[0], &nodes[2]);
    let mut standing = Vec::new();
    for lane in Lane::ALL {
        let connection = connect(target, caller, lane).await;
        // With a request under way.
        let streams = ask(&connection, b"SUSf").await;
        standing.push((connection, streams));
    }
    let before = tokio::time::Instant::now();
    target.cluster.remove(caller.id()).await.unwrap();
    for (connection, (mut send, mut receive)) in standing {
        assert_eq!(ended(&connection).await, CLOSE_REMOVED);
        assert!(send.write_all(b"more").await.is_err());
        let answer = frames::read::<sustain_proto::wire::Response>(&mut receive, 10_000).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    let call = connect(target, caller, Lane::Bulk).await;
    assert_eq!(ended(&call).await, CLOSE_REMOVED);
    others_are_served(&nodes).await;
    harness::stop(&nodes).await;
}
