//! Whole clusters in virtual time, from a seed: kills, restarts, partitions, lost messages.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng};

use super::simulated_cluster::{Cluster, Delivery, NODES, Node, id};
use super::*;

#[test]
fn the_first_server_starts_and_the_others_follow_it() {
    let mut cluster = Cluster::new(1);
    cluster.run(5_000);
    assert_eq!(cluster.only_server(), 0);
    for node in 1..NODES {
        assert_eq!(cluster.machine(node).following().unwrap().node, id(0));
    }
}

#[test]
fn a_killed_server_is_replaced_from_its_newest_durable_snapshot_within_three_seconds() {
    for seed in 0..200 {
        let mut cluster = Cluster::new(seed);
        cluster.loss = 0.01;
        cluster.run(8_000 + seed);
        assert_eq!(cluster.only_server(), 0, "seed {seed}");
        let durable_seq = cluster.durable_seq;
        assert!(durable_seq > 0, "seed {seed}");
        cluster.kill(0);
        cluster.run(3_000);
        assert_eq!(cluster.only_server(), 1, "seed {seed}");
        assert_eq!(cluster.restored.len(), 1, "seed {seed}");
        assert!(cluster.restored[0].1 >= durable_seq, "seed {seed}");
    }
}

#[test]
fn a_killed_server_that_returns_is_a_candidate_and_starts_no_second_vm() {
    for seed in 0..100 {
        let mut cluster = Cluster::new(seed);
        cluster.run(8_000);
        cluster.kill(0);
        // It returns at any point of the others' election.
        cluster.run(37 * seed);
        cluster.start(0);
        cluster.run(10_000);
        cluster.only_server();
        assert_eq!(cluster.boots, 1, "seed {seed}");
    }
}

/// A VM that ended as soon as it ran was restored again and again by the same node.
#[test]
fn a_vm_that_ends_at_once_is_tried_elsewhere_and_one_that_ran_a_while_goes_on_where_it_was() {
    let crash = |cluster: &mut Cluster, node: usize| {
        let (term, ..) = cluster.nodes[node].vm.take().unwrap();
        cluster.send(node, 1, Delivery::Event(Event::Exited { term }));
    };
    let mut cluster = Cluster::new(7);
    cluster.run(8_000);
    crash(&mut cluster, 0);
    cluster.run(5_000);
    assert_eq!(cluster.only_server(), 0, "it had taken snapshots");
    crash(&mut cluster, 0);
    // As soon as it runs again, and before a snapshot.
    while cluster.nodes[0].vm.is_none() {
        cluster.run(1);
    }
    crash(&mut cluster, 0);
    cluster.run(5_000);
    assert_eq!(cluster.only_server(), 1, "the other has better luck");
    cluster.run(40_000);
    cluster.only_server();
}

/// The guest was saved while it shut down, and powered off 0.3 s after each restore: the service was down for ever,
/// with all the older snapshots in the stores.
#[test]
fn a_snapshot_that_ends_its_vm_on_every_node_is_passed_over_and_stays_in_the_stores() {
    for seed in 0..50 {
        let mut cluster = Cluster::new(seed);
        cluster.loss = 0.01;
        cluster.run(8_000 + 10 * seed);
        let doomed = cluster.doom(0..NODES);
        cluster.run(75_000);
        cluster.only_server();
        assert!(cluster.restored.len() > NODES, "each has tried, seed {seed}");
        let tries = &cluster.restored[..NODES];
        assert!(tries.iter().all(|(_, seq)| *seq == doomed.seq), "seed {seed}: {tries:?}");
        assert!(cluster.passed_over.contains(&(doomed.id, doomed.seq - 1)), "seed {seed}");
        assert_eq!(cluster.boots, 1, "seed {seed}");
        let holds = |node: &Node| node.store.iter().any(|summary| summary.id == doomed.id);
        assert!(cluster.nodes.iter().all(holds), "seed {seed}");
        // It lives, and what failed is forgotten.
        let ballots = (0..NODES).map(|node| cluster.machine(node).ballot(cluster.now_ms));
        assert!(ballots.into_iter().all(|ballot| ballot.failed.is_empty()), "seed {seed}");
    }
}

/// The same where the restore itself fails, on a snapshot that is garbage.
#[test]
fn a_snapshot_that_no_node_can_restore_is_passed_over() {
    for seed in 0..50 {
        let mut cluster = Cluster::new(seed);
        cluster.garbage = true;
        cluster.run(8_000 + 10 * seed);
        let doomed = cluster.doom(0..NODES);
        cluster.run(75_000);
        cluster.only_server();
        assert!(cluster.passed_over.contains(&(doomed.id, doomed.seq - 1)), "seed {seed}");
        let seqs: Vec<_> = cluster.restored.iter().map(|(_, seq)| *seq).collect();
        assert_eq!(seqs, [doomed.seq - 1], "seed {seed}");
    }
}

/// A node that is alone tries twice, and goes on then.
#[test]
fn a_lone_node_passes_over_a_snapshot_that_failed_twice_and_goes_on() {
    let mut cluster = Cluster::new(11);
    cluster.run(8_000);
    (1..NODES).for_each(|node| cluster.kill(node));
    cluster.run(2_000);
    let doomed = cluster.doom(0..NODES);
    cluster.run(Timing::default().penalty_ms - 2_000);
    assert_eq!(cluster.passed_over, []);
    // It also waits for the others, who might know better.
    cluster.run(Timing::default().lonely_ms + Timing::default().penalty_ms);
    assert_eq!(cluster.only_server(), 0);
    assert_eq!(cluster.passed_over, [(doomed.id, doomed.seq - 1)]);
    let seqs: Vec<_> = cluster.restored.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(seqs, [doomed.seq, doomed.seq, doomed.seq - 1]);
}

/// However often it failed elsewhere, whoever has not tried comes first.
#[test]
fn a_snapshot_that_lives_on_one_node_only_is_restored_there_and_nothing_is_lost() {
    for seed in 0..50 {
        let mut cluster = Cluster::new(seed);
        cluster.run(8_000 + 10 * seed);
        let doomed = cluster.doom(0..NODES - 1);
        cluster.run(30_000);
        assert_eq!(cluster.only_server(), NODES - 1, "seed {seed}");
        assert_eq!(cluster.passed_over, [], "seed {seed}");
        assert!(cluster.restored.iter().all(|(_, seq)| *seq == doomed.seq), "seed {seed}");
    }
}

#[test]
fn a_partition_has_a_server_on_each_side_and_one_after_it_heals() {
    for seed in 0..100 {
        let mut cluster = Cluster::new(seed);
        cluster.run(8_000 + 10 * seed);
        cluster.partition([0, 0, 1, 1, 1]);
        cluster.run(6_000);
        assert_eq!(cluster.servers(), BTreeSet::from([0, 2]), "seed {seed}");
        cluster.partition([0; NODES]);
        cluster.run(4_000);
        assert_eq!(cluster.only_server(), 2, "seed {seed}");
        assert_eq!(cluster.machine(0).role(), Role::Candidate, "seed {seed}");
    }
}

#[test]
fn a_whole_cluster_that_lost_power_restores_and_never_boots_anew() {
    let mut cluster = Cluster::new(3);
    cluster.run(8_000);
    let durable_seq = cluster.durable_seq;
    (0..NODES).for_each(|node| cluster.kill(node));
    cluster.run(1_000);
    (0..NODES).for_each(|node| cluster.start(node));
    cluster.run(8_000);
    cluster.only_server();
    assert_eq!(cluster.boots, 1);
    assert!(cluster.restored[0].1 >= durable_seq);
}

/// A node with an old store came up some seconds before the others, restored its old state alone, and the
/// others followed it back in time.
#[test]
fn a_stale_node_that_is_first_back_after_a_power_cut_waits_for_the_others() {
    for seed in 0..50 {
        let mut cluster = Cluster::new(seed);
        cluster.run(8_000);
        cluster.kill(0);
        cluster.run(8_000);
        let durable_seq = cluster.durable_seq;
        (1..NODES).for_each(|node| cluster.kill(node));
        cluster.start(0);
        cluster.run(6_000);
        assert!(cluster.servers().is_empty(), "seed {seed}");
        (1..NODES).for_each(|node| cluster.start(node));
        cluster.run(10_000);
        cluster.only_server();
        assert!(cluster.restored.last().unwrap().1 >= durable_seq, "seed {seed}");
    }
}

/// What was restored was called durable at once, though nobody else might have it.
#[test]
fn a_successor_promises_what_was_durable_and_not_what_it_restores() {
    for seed in 0..50 {
        let mut cluster = Cluster::new(seed);
        cluster.run(8_000);
        // Two nodes are too few for anything to become durable.
        (2..NODES).for_each(|node| cluster.kill(node));
        cluster.run(4_000);
        let durable_seq = cluster.durable_seq;
        cluster.kill(0);
        cluster.run(6_000);
        assert_eq!(cluster.only_server(), 1, "seed {seed}");
        assert!(cluster.restored[0].1 > durable_seq, "seed {seed}");
        let mark = cluster.machine(1).watermark().unwrap();
        assert_eq!(mark.durable.map(|durable| durable.1), Some(durable_seq), "seed {seed}");
        assert_eq!(mark.level, 0, "seed {seed}");
    }
}

/// With enough nodes it is safe still, and how safe is counted among those that answer.
#[test]
fn a_successor_counts_who_has_the_durable_state() {
    let mut cluster = Cluster::new(9);
    cluster.run(8_000);
    let durable_seq = cluster.durable_seq;
    cluster.kill(0);
    while cluster.servers().is_empty() {
        cluster.run(1);
    }
    let mark = cluster.machine(1).watermark().unwrap();
    assert_eq!((mark.durable.unwrap().1, mark.level), (durable_seq, 2), "three others have it");
}

/// The same with the first server's disk replaced: nobody who could know better had answered, and it booted.
#[test]
fn a_first_server_with_an_empty_store_does_not_boot_while_it_is_alone() {
    let mut cluster = Cluster::new(6);
    cluster.run(8_000);
    (0..NODES).for_each(|node| cluster.kill(node));
    cluster.nodes[0].store.clear();
    cluster.start(0);
    cluster.run(6_000);
    assert!(cluster.servers().is_empty());
    (1..NODES).for_each(|node| cluster.start(node));
    cluster.run(10_000);
    cluster.only_server();
    assert_eq!(cluster.boots, 1);
}

/// Whoever waits in vain for the others serves all the same, from what it has.
#[test]
fn a_node_that_stays_alone_restores_in_the_end() {
    let mut cluster = Cluster::new(7);
    cluster.run(8_000);
    (0..NODES).for_each(|node| cluster.kill(node));
    cluster.start(3);
    cluster.run(Timing::default().lonely_ms - 1_000);
    assert!(cluster.servers().is_empty());
    cluster.run(6_000);
    assert_eq!(cluster.only_server(), 3);
}

#[test]
fn without_the_first_server_a_new_service_waits() {
    let mut cluster = Cluster::new(4);
    cluster.kill(0);
    cluster.run(20_000);
    assert!(cluster.servers().is_empty());
    cluster.start(0);
    cluster.run(5_000);
    assert_eq!(cluster.only_server(), 0);
}

#[test]
fn random_faults_end_with_one_server_once_they_stop() {
    for seed in 0..300 {
        let mut cluster = Cluster::new(seed);
        cluster.loss = 0.05;
        cluster.run(6_000);
        for _ in 0..12 {
            let node = cluster.random.random_range(0..NODES);
            match cluster.random.random_range(0..4) {
                0 => cluster.kill(node),
                1 if cluster.nodes[node].machine.is_none() => cluster.start(node),
                2 => {
                    let mut side = [0; NODES];
                    side.fill_with(|| cluster.random.random_range(0..2));
                    cluster.partition(side);
                }
                _ => cluster.partition([0; NODES]),
            }
            let pause_ms = cluster.random.random_range(100..4_000);
            cluster.run(pause_ms);
        }
        cluster.loss = 0.0;
        cluster.partition([0; NODES]);
        for node in 0..NODES {
            if cluster.nodes[node].machine.is_none() {
                cluster.start(node);
            }
        }
        cluster.run(15_000);
        cluster.only_server();
        assert_eq!(cluster.boots, 1, "seed {seed}");
    }
}

#[test]
fn a_stalled_candidate_accuses_nobody() {
    let mut cluster = Cluster::new(5);
    cluster.run(8_000);
    let now_ms = cluster.now_ms + 60_000;
    let machine = cluster.nodes[3].machine.as_mut().unwrap();
    // A minute without a tick: the process was stopped, and its heartbeats wait unread.
    let actions = machine.handle(now_ms, Event::Tick, &mut cluster.random);
    assert_eq!(actions, Vec::new());
    assert_eq!(machine.role(), Role::Candidate);
}

/// It would claim the service, gather all of the snapshot, and fail with it.
#[test]
fn a_node_without_the_newest_snapshots_key_holds_and_is_never_elected() {
    let mut cluster = Cluster::new(8);
    cluster.run(5_000);
    cluster.handle(1, Event::Readable(false));
    cluster.kill(0);
    cluster.run(4_000);
    assert_eq!(cluster.only_server(), 2);
    assert!(cluster.nodes[1].store.iter().any(|summary| summary.term.node == id(2)), "it holds all the same");
    cluster.kill(2);
    cluster.kill(3);
    cluster.kill(4);
    cluster.run(90_000);
    assert!(cluster.servers().is_empty());
    assert_eq!(cluster.machine(1).obstacle(), Some(Obstacle::NobodyStands));
    // The key is brought in.
    cluster.handle(1, Event::Readable(true));
    cluster.run(90_000);
    assert_eq!(cluster.only_server(), 1);
}

/// With two of five gone for good the rest is no majority for a cold start until the members say so.
#[test]
fn who_was_removed_counts_for_no_majority() {
    let mut cluster = Cluster::new(3);
    cluster.run(8_000);
    (0..NODES).for_each(|node| cluster.kill(node));
    cluster.start(3);
    cluster.start(4);
    // Well below the time after which a lonely node serves all the same.
    cluster.run(20_000);
    assert_eq!(cluster.servers(), BTreeSet::new(), "two of five do not know the newest state");
    for node in [3, 4] {
        let others = [3, 4].into_iter().filter(|other| *other != node).map(id).collect();
        cluster.send(node, 1, Delivery::Event(Event::Members(others)));
    }
    cluster.run(5_000);
    cluster.only_server();
}

/// An election that waits for a node that is removed meanwhile goes on without it.
#[test]
fn an_election_does_not_wait_for_one_that_was_removed() {
    let timing = Timing::default();
    let config = MachineConfig {
        service: "mail".parse().unwrap(),
        node: id(0),
        peers: [id(1), id(2)].into(),
        priority: 1,
        eligible: true,
        first: true,
        timing,
    };
    let mut machine = Machine::new(config, Box::new(StaticPriority), 0);
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    for node in [1, 2] {
        machine.handle(1, Event::Peer { node: id(node), reachable: true }, &mut random);
    }
    machine.handle(2, Event::Tick, &mut random);
    assert_eq!(machine.role(), Role::Electing);
    let ballot = sustain_proto::wire::Ballot {
        hears: None,
        term_known: None,
        priority: 0,
        eligible: true,
        able: true,
        failed: Vec::new(),
        snapshots: Vec::new(),
    };
    machine.handle(3, Event::Ballot { from: id(1), round: 1, ballot: Some(ballot) }, &mut random);
    assert_eq!(machine.role(), Role::Electing, "another one is awaited");
    machine.handle(4, Event::Members([id(1)].into()), &mut random);
    assert_eq!(machine.role(), Role::Restoring, "it begins the service");
}
