//! Nodes of different versions: what two have in common is spoken, and a cluster is upgraded node by node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sustain_proto::NodeId;
use sustain_proto::wire::{Lane, Request, Versions};

use super::gathering::silent;
use super::harness::{self, PATIENCE, TestNode, service_name};
use super::membership::until;
use crate::transport::spoken;
use crate::{Cluster, ClusterConfig, RequestError, Tuning};

fn versions(least: u16, greatest: u16) -> Versions {
    Versions::new(least, greatest).unwrap()
}

fn tuning(versions: Versions) -> Tuning {
    Tuning { versions, ..Tuning::default() }
}

/// What the control connection between two nodes speaks.
fn version(from: &Cluster, to: NodeId) -> Option<u16> {
    from.member().links.live(to, Lane::Control).map(|connection| spoken::version(&connection))
}

/// Starts a node again as one that speaks these.
async fn upgrade(node: &mut TestNode, versions: Versions) {
    node.cluster.shutdown().await;
    node.config.tuning.versions = versions;
    node.cluster = node.again().await;
}

async fn wait_for_all(nodes: &[TestNode]) {
    let all = || nodes.iter().all(|node| node.cluster.peers().iter().all(|peer| peer.reachable));
    until("everyone", all).await;
}

/// Tries until it works.
async fn soon<E: std::fmt::Display>(attempt: impl AsyncFn() -> Result<(), E>) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = attempt().await {
        assert!(tokio::time::Instant::now() < until, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A new snapshot of one node comes to another one, and a client is passed on.
async fn data_flow(from: &TestNode, to: &TestNode, seed: u64) {
    let bytes = harness::noise(seed, 200_000);
    let id = from.push(&format!("s{seed}"), &bytes).snapshot;
    // The one that has it may just be dialled anew.
    soon(async || to.cluster.gather(id, silent()).await.map(drop)).await;
    assert_eq!(to.restored(id), bytes);
    soon(async || to.cluster.forward(from.id(), service_name("echo"), harness::ECHO_PORT).await.map(drop))
        .await;
}

/// One node asks another one without pause, and gets an answer each time.
struct Traffic {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Traffic {
    fn between(from: &Cluster, to: NodeId) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (from, ended, counted) = (from.clone(), stop.clone(), answers.clone());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while !ended.load(Ordering::SeqCst) {
                let request = Request::Snapshots { service: service_name("mail") };
                from.request(to, request, PATIENCE).await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        Self { stop, answers, tasks }
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_next().await.unwrap().unwrap();
        assert!(self.answers.load(Ordering::SeqCst) > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_node_by_node_while_data_flow() {
    let (old, both, new) = (versions(3, 3), versions(3, 4), versions(4, 4));
    let mut nodes = harness::start(5, &tuning(old)).await;
    let mut seed = 0;
    for step in [both, new] {
        for number in 0..5 {
            let (one, other) = ((number + 1) % 5, (number + 2) % 5);
            let traffic = Traffic::between(&nodes[one].cluster, nodes[other].id());
            nodes[number].cluster.shutdown().await;
            data_flow(&nodes[one], &nodes[other], seed).await;
            upgrade(&mut nodes[number], step).await;
            wait_for_all(&nodes).await;
            data_flow(&nodes[number], &nodes[one], seed + 1).await;
            data_flow(&nodes[other], &nodes[number], seed + 2).await;
            seed += 3;
            traffic.end().await;
            for peer in &nodes {
                let expected = nodes[number].config.tuning.versions.common(peer.config.tuning.versions);
                let spoken = version(&nodes[number].cluster, peer.id());
                assert!(
                    peer.id() == nodes[number].id() || spoken == expected,
                    "{spoken:?} and not {expected:?}"
                );
            }
        }
    }
    for node in &nodes {
        assert!(node.cluster.peers().iter().all(|peer| peer.obstacle.is_none() && peer.shut_out.is_none()));
    }
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_without_a_common_version_say_what_to_do_until_it_is_done() {
    let mut configs = harness::configs(2, &Tuning::default());
    configs[0].1.tuning.versions = versions(2, 2);
    configs[1].1.tuning.versions = versions(3, 4);
    let start = |(number, (socket, config)): (u32, (std::net::UdpSocket, ClusterConfig))| {
        TestNode::start(number, socket, config)
    };
    let mut nodes: Vec<TestNode> = (0..).zip(configs).map(start).collect();
    let obstacle = |node: &TestNode| node.cluster.peers()[0].obstacle.clone().unwrap_or_default();
    let words = "speaks version 2 of the wire, this node versions 3 and 4 of the wire; upgrade it first";
    until("the newer one's words", || obstacle(&nodes[1]) == words).await;
    until("the older one's words", || obstacle(&nodes[0]).ends_with("upgrade this one")).await;
    let request = Request::Snapshots { service: service_name("mail") };
    let error = nodes[1].cluster.request(nodes[0].id(), request, PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("upgrade it first"), "{error}");
    assert!(nodes.iter().all(|node| node.cluster.peers().iter().all(|peer| peer.shut_out.is_none())));
    upgrade(&mut nodes[0], versions(3, 3)).await;
    wait_for_all(&nodes).await;
    assert_eq!((obstacle(&nodes[0]), obstacle(&nodes[1])), (String::new(), String::new()));
    assert_eq!(version(&nodes[1].cluster, nodes[0].id()), Some(3));
    harness::stop(&nodes).await;
}

/// Every kind is there since the first version that was released; a node before it would have none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_peer_does_not_know_is_not_sent_to_it() {
    let mut configs = harness::configs(2, &Tuning::default());
    configs[0].1.tuning.versions = versions(2, 2);
    configs[1].1.tuning.versions = versions(2, 3);
    let start = |(number, (socket, config)): (u32, (std::net::UdpSocket, ClusterConfig))| {
        TestNode::start(number, socket, config)
    };
    let nodes: Vec<TestNode> = (0..).zip(configs).map(start).collect();
    let (newer, older) = (&nodes[1], nodes[0].id());
    until("a connection", || version(&newer.cluster, older) == Some(2)).await;
    let request = Request::Snapshots { service: service_name("mail") };
    let error = newer.cluster.request(older, request, PATIENCE).await.unwrap_err();
    assert!(matches!(error, RequestError::Unspoken { version: 2, .. }), "{error}");
    // Probes would be answered.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert!(newer.cluster.peers().iter().all(|peer| !peer.reachable));
    assert_eq!(nodes[0].recorder.events(), []);
    harness::stop(&nodes).await;
}
