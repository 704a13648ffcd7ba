//! Statements of the roster that are forged, said again, or made over and over.

use quinn::Connection;
use sustain_proto::wire::{Lane, Message};
use sustain_proto::{Details, NodeId, Record, Signed, encode_frame};

use super::harness::TestNode;
use super::hostility::connect;
use super::misconduct::{ended, is_shut_out, others_are_served, three};
use crate::NodeKey;
use crate::membership::sign;
use crate::transport::quic::CLOSE_SHUT_OUT;

fn record(key: &NodeKey, like: &Details, version: u64, priority: u32) -> Signed<Record> {
    let details = Details { priority, ..like.clone() };
    sign(key, Record { node: key.node_id(), version, details }).unwrap()
}

/// Says what it is, as on a new connection.
async fn introduce(connection: &Connection, record: Signed<Record>) {
    // With a digest that nobody has, so that it is not asked for more.
    let message = Message::Roster { digest: [9; 32], is_reply: true, record: Some(Box::new(record)) };
    let Ok(mut stream) = connection.open_uni().await else { return };
    // It fails where the other side has had enough.
    let _ = stream.write_all(&encode_frame(&message, 10_000).unwrap()).await;
    let _ = stream.finish();
}

fn priority(node: &TestNode, of: NodeId) -> u32 {
    let peers = node.cluster.peers();
    peers.iter().find(|peer| peer.peer.id == of).unwrap().peer.priority
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_said_again_change_nothing_and_forged_ones_shut_out_who_passes_them_on() {
    let nodes = three(Lane::Control).await;
    let (signer, like) = (&nodes[2].config.key, &nodes[2].config.own);
    let connection = connect(&nodes[0], &nodes[2], Lane::Control).await;
    introduce(&connection, record(signer, like, 20, 220)).await;
    super::membership::until("the news", || priority(&nodes[0], signer.node_id()) == 220).await;
    for version in 1..20 {
        introduce(&connection, record(signer, like, version, 7)).await;
    }
    others_are_served(&nodes).await;
    assert_eq!(priority(&nodes[0], signer.node_id()), 220);
    assert!(connection.close_reason().is_none(), "an honest node that has heard nothing new may say that");
    for _ in 0..3 {
        let mut forged = record(&nodes[1].config.key, &nodes[1].config.own, 21, 221);
        forged.body.version += 1;
        introduce(&connection, forged).await;
    }
    assert_eq!(ended(&connection).await, CLOSE_SHUT_OUT);
    is_shut_out(&nodes, "it passes on forged statements").await;
    assert_eq!(priority(&nodes[0], nodes[1].id()), nodes[1].config.own.priority);
    super::harness::stop(&nodes).await;
}

/// Each version would be synced to disk and passed on to everybody, by everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_signs_its_record_over_and_over_is_shut_out_and_few_versions_go_round() {
    let nodes = three(Lane::Control).await;
    let (key, like) = (&nodes[2].config.key, &nodes[2].config.own);
    let connection = connect(&nodes[0], &nodes[2], Lane::Control).await;
    let mut seen = std::collections::BTreeSet::new();
    for version in 100..1_000 {
        introduce(&connection, record(key, like, version, version as u32)).await;
        seen.extend(nodes[..2].iter().map(|node| priority(node, key.node_id())));
        if connection.close_reason().is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(ended(&connection).await, CLOSE_SHUT_OUT);
    is_shut_out(&nodes, "it sends too many messages").await;
    assert!(seen.len() < 12, "{seen:?}");
    others_are_served(&nodes).await;
    super::harness::stop(&nodes).await;
}
