//! What comes over the wire and should not.

use std::net::UdpSocket;
use std::sync::Arc;

use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rand::{Rng, RngCore, SeedableRng};
use sustain_proto::wire::{Lane, Message, Request, Response};
use sustain_proto::{PackId, encode_frame, limits};

use super::harness::{self, Event, PATIENCE, TestNode, service_name};
use crate::transport::frames;
use crate::{Tuning, tls};

/// A connection as a peer of the cluster makes it, to do with as we like.
async fn connect(target: &TestNode, caller: &TestNode, lane: Lane) -> Connection {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let crypto = tls::client(&caller.config.key, target.id(), lane).unwrap();
    let config = ClientConfig::new(Arc::new(crypto));
    endpoint.connect_with(config, target.address(), tls::SERVER_NAME).unwrap().await.unwrap()
}

async fn ask(connection: &Connection, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    (send, receive)
}

async fn refused(receive: &mut RecvStream, lane: Lane) -> String {
    let answer = frames::read::<Response>(receive, lane.frame_bytes_max());
    match tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap() {
        Response::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_datagrams_harm_nothing() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let mut random = rand::rngs::StdRng::seed_from_u64(11);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = [0; 1_500];
    for number in 0..3_000 {
        let length = random.random_range(0..buffer.len());
        random.fill_bytes(&mut buffer);
        if number % 3 == 0 {
            // What looks like the first packet of a handshake.
            buffer[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        socket
            .send_to(&buffer[..length.max(usize::from(number % 2 == 0) * 1_200)], nodes[0].address())
            .unwrap();
    }
    let bytes = harness::noise(1, 200_000);
    let snapshot = nodes[1].push("mail", &bytes).snapshot;
    nodes[1].retain("mail", 0);
    nodes[1].wait_level(snapshot, 0).await;
    assert_eq!(nodes[0].restored(snapshot), bytes);
    assert!(!nodes[1].recorder.events().contains(&Event::Changed(nodes[0].id(), false)));
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_proper_request_is_refused() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let (target, caller) = (&nodes[0], &nodes[1]);
    let snapshots = Request::Snapshots { service: service_name("mail") };
    for lane in [Lane::Control, Lane::Forward] {
        let connection = connect(target, caller, lane).await;
        let frame = encode_frame(&snapshots, lane.frame_bytes_max()).unwrap();
        let (_send, mut receive) = ask(&connection, &frame).await;
        let reason = refused(&mut receive, lane).await;
        assert!(reason.contains("does not belong"), "{reason}");
    }
    let connection = connect(target, caller, Lane::Bulk).await;
    let good = encode_frame(&snapshots, Lane::Bulk.frame_bytes_max()).unwrap();
    let (_send, mut receive) = ask(&connection, &good).await;
    let answer = frames::read::<Response>(&mut receive, Lane::Bulk.frame_bytes_max()).await.unwrap();
    assert_eq!(answer, Response::Snapshots { list: vec![] }, "the proper one is answered");

    let mut version = good.clone();
    version[4] = 9;
    let mut length = good.clone();
    length[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut body = good.clone();
    *body.last_mut().unwrap() = b'!';
    let large =
        Request::GetPack { id: PackId::from_bytes([1; 32]), offset: 0, bytes: limits::PACK_BYTES_MAX + 1 };
    let large = encode_frame(&large, Lane::Bulk.frame_bytes_max()).unwrap();
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "magic"),
        (&version, "version 9"),
        (&length, "4294967295"),
        (&body, "not a message"),
        (&large, "bytes of a pack"),
    ];
    for (bytes, expected) in cases {
        let (_send, mut receive) = ask(&connection, bytes).await;
        let reason = refused(&mut receive, Lane::Bulk).await;
        assert!(reason.contains(expected), "{reason} instead of {expected}");
    }
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_damaged_server_sends_is_not_taken() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let snapshot = nodes[0].push("mail", &harness::noise(1, 300_000)).snapshot;
    let packs = nodes[0].store.manifest(snapshot).unwrap().0.packs;
    assert!(nodes[0].damage_packs() > 0);
    nodes[0].retain("mail", 0);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert!(packs.iter().all(|pack| !nodes[1].store.has_pack(&pack.id)));
    assert!(!nodes[0].recorder.events().contains(&Event::Level(snapshot, Some(0))));
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_never_end_block_nobody() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let connection = connect(&nodes[0], &nodes[1], Lane::Bulk).await;
    let mut open = Vec::new();
    for _ in 0..crate::limits::BULK_STREAMS_MAX {
        open.push(ask(&connection, b"SUSf").await);
    }
    let more = tokio::time::timeout(std::time::Duration::from_millis(300), connection.open_bi()).await;
    assert!(more.is_err(), "the number of streams is limited");
    // The true node 1 still has its control connection, and node 0 its bulk connection to node 1.
    let message = Message::ProbeReply { nonce: 0 };
    assert!(nodes[1].cluster.send(nodes[0].id(), message));
    assert_eq!(nodes[0].cluster.known_snapshots(&service_name("mail")).await.len(), 1);
    harness::stop(&nodes).await;
}
