//! Followers arrive at their server's generation, whatever they missed and whatever they keep for themselves.

use std::time::Duration;

use sustain_proto::{NodeId, ServiceName, SnapshotId, Term, TermOrigin};
use sustain_store::{NoProgress, PushLineage, PushRequest, RebaseOptions, Retention, SnapshotInfo, Store};

use crate::common::*;
use crate::keeping::{pin_name, state};
use crate::replication::{open, replicate};

fn mail() -> ServiceName {
    service("mail")
}

fn list(store: &Store) -> Vec<SnapshotInfo> {
    store.snapshots(Some(&mail())).unwrap()
}

fn seqs(store: &Store) -> Vec<u64> {
    list(store).iter().map(|info| info.seq).collect()
}

/// The bases that a store's snapshots need.
fn generations(store: &Store) -> Vec<SnapshotId> {
    let mut bases: Vec<_> = list(store).iter().map(|info| info.base.unwrap_or(info.id)).collect();
    bases.sort();
    bases.dedup();
    bases
}

/// A server with a store, and the followers' stores.
struct Cluster {
    _folders: Vec<tempfile::TempDir>,
    server: Store,
    followers: Vec<Store>,
    steps: usize,
}

impl Cluster {
    fn new(followers: usize) -> Self {
        let folders: Vec<_> = (0..=followers).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut stores: Vec<_> = folders.iter().map(open).collect();
        let server = stores.remove(0);
        Self { _folders: folders, server, followers: stores, steps: 0 }
    }

    /// The server takes a snapshot, which these followers get.
    fn push(&mut self, to: &[usize]) -> SnapshotId {
        self.steps += 1;
        let id = push(&self.server, "mail", &state(self.steps)).snapshot;
        to.iter().for_each(|follower| self.send(*follower, id));
        id
    }

    /// As a node does it: what came is looked at.
    fn send(&self, follower: usize, id: SnapshotId) {
        let store = &self.followers[follower];
        replicate(&self.server, store, id);
        follow(store);
    }

    fn rebase(&self, promote: Option<SnapshotId>, retention: Retention) -> SnapshotId {
        let options = RebaseOptions { promote, retention, ..RebaseOptions::default() };
        let prepared = self.server.prepare_rebase_with(&mail(), options, &NoProgress).unwrap();
        prepared.commit(Duration::ZERO).unwrap().base
    }

    /// What a server sends after a rebase: the newest snapshot, and then what it has kept.
    fn send_generation(&self, follower: usize) {
        self.send(follower, list(&self.server).last().unwrap().id);
        for held in self.server.held(&mail()).unwrap() {
            self.send(follower, held);
        }
    }

    fn assert_alike(&self, follower: usize) {
        let store = &self.followers[follower];
        assert_eq!(generations(store), generations(&self.server), "another generation");
        assert!(list(store).iter().all(|info| list(&self.server).iter().any(|own| own.id == info.id)));
        verify_good(store);
    }
}

fn follow(store: &Store) {
    let base = list(store).into_iter().rfind(|info| !info.came_from.is_empty());
    if let Some(base) = base {
        store.retire_superseded(base.id).unwrap();
    }
}

#[test]
fn a_follower_that_missed_several_generations_arrives_at_the_newest() {
    let mut cluster = Cluster::new(2);
    for _ in 0..3 {
        for _ in 0..4 {
            cluster.push(&[0]);
        }
        cluster.rebase(None, Retention::NOTHING);
        cluster.send_generation(0);
        cluster.assert_alike(0);
        if cluster.steps == 4 {
            // The other one hears of the first generation only, and has deltas of it that the server then drops.
            cluster.push(&[0, 1]);
            cluster.push(&[0, 1]);
        }
    }
    assert_eq!(seqs(&cluster.followers[1]), [4, 5, 6]);
    cluster.push(&[0]);
    cluster.send_generation(1);
    cluster.assert_alike(1);
    assert_eq!(seqs(&cluster.followers[1]), seqs(&cluster.server));
}

#[test]
fn a_follower_that_was_down_during_the_rebase_keeps_what_it_has_until_the_new_base_is_here() {
    let mut cluster = Cluster::new(1);
    let old: Vec<_> = (0..3).map(|_| cluster.push(&[0])).collect();
    cluster.push(&[]);
    cluster.rebase(None, Retention::NOTHING);
    follow(&cluster.followers[0]);
    assert_eq!(restore(&cluster.followers[0], old[2]), state(3));
    cluster.send_generation(0);
    cluster.assert_alike(0);
    assert_eq!(seqs(&cluster.followers[0]), [4]);
}

/// The base came with the first of what was kept, and the other old copies were dropped before their new ones came.
#[test]
fn old_copies_of_what_the_server_keeps_go_one_by_one_as_the_new_ones_come() {
    let mut cluster = Cluster::new(1);
    let old: Vec<_> = (0..6).map(|_| cluster.push(&[0])).collect();
    cluster.rebase(None, Retention { keep_last: 4, ..Retention::NOTHING });
    let held = cluster.server.held(&mail()).unwrap();
    assert_eq!(held.len(), 3);
    let follower = &cluster.followers[0];
    cluster.send(0, list(&cluster.server).last().unwrap().id);
    // The first base is needed by what is waited for.
    assert_eq!(seqs(follower), [1, 3, 4, 5, 6]);
    for (sent, id) in held.into_iter().enumerate() {
        for (step, id) in (1..).zip(&old).skip(2) {
            let now = follower.resolve(&id.to_string()).unwrap();
            assert_eq!(restore(follower, now), state(step), "after {sent} were sent");
        }
        cluster.send(0, id);
    }
    cluster.assert_alike(0);
    assert_eq!(seqs(follower), [3, 4, 5, 6]);
    // The ids of before lead to the new forms here too.
    for (step, id) in (1..).zip(&old).skip(2) {
        assert_eq!(restore(follower, follower.resolve(&id.to_string()).unwrap()), state(step));
    }
}

#[test]
fn what_only_a_follower_has_pinned_is_described_by_the_servers_base() {
    let mut cluster = Cluster::new(1);
    let old: Vec<_> = (0..5).map(|_| cluster.push(&[0])).collect();
    let follower = cluster.followers[0].clone();
    follower.pin(old[1], &pin_name("mine")).unwrap();
    cluster.rebase(None, Retention::NOTHING);
    for _ in 0..2 {
        cluster.send_generation(0);
        assert_eq!(generations(&follower), generations(&cluster.server));
        let mine = follower.pins().unwrap()[0].snapshot.unwrap();
        assert_eq!(restore(&follower, mine), state(2));
        assert_eq!(follower.resolve(&old[1].to_string()).unwrap(), mine);
        verify_good(&follower);
        cluster.push(&[]);
        cluster.rebase(None, Retention::NOTHING);
    }
    follower.unpin(&pin_name("mine")).unwrap();
    cluster.send_generation(0);
    cluster.assert_alike(0);
}

/// A base that is not durable yet must not cost the newest snapshot that is.
#[test]
fn the_newest_durable_snapshot_waits_for_the_new_generation_to_become_durable() {
    let mut cluster = Cluster::new(1);
    let old: Vec<_> = (0..4).map(|_| cluster.push(&[])).collect();
    cluster.send(0, old[1]);
    let follower = cluster.followers[0].clone();
    follower.mark_durable(old[1], 1).unwrap();
    let base = cluster.rebase(None, Retention::NOTHING);
    cluster.send_generation(0);
    assert_eq!(restore(&follower, old[1]), state(2));
    follower.mark_durable(base, 1).unwrap();
    follow(&follower);
    cluster.assert_alike(0);
    // What was marked by its old id is as durable by its new one.
    let last = cluster.push(&[0]);
    follower.mark_durable(last, 2).unwrap();
    cluster.rebase(None, Retention::NOTHING);
    cluster.send_generation(0);
    assert_eq!(list(&follower).iter().map(|info| (info.seq, info.level)).collect::<Vec<_>>(), [(5, Some(2))]);
}

/// The loser of an election has a head that the winner never saw; the winner's generation comes to it.
#[test]
fn a_head_that_lost_its_election_follows_into_the_winners_generation() {
    let mut cluster = Cluster::new(1);
    for _ in 0..3 {
        cluster.push(&[0]);
    }
    let follower = cluster.followers[0].clone();
    let fork = |store: &Store, number: u8, parent: SnapshotId, seq: u64, step: usize| {
        let first = list(store)[0].term;
        let term = Term { counter: 2, node: NodeId::from_bytes([number; 32]), nonce: 1 };
        let origin = Some(TermOrigin { parent: first, seq: 3 });
        let lineage = PushLineage::Explicit { term, origin, parents: vec![parent], seq };
        let mut push = store.begin_push(PushRequest { service: mail(), lineage, time_ms: 5 }).unwrap();
        for (name, bytes) in &state(step) {
            push.ingest(&region(name), &Bytes(bytes)).unwrap();
        }
        push.commit().unwrap().snapshot
    };
    let common = list(&follower)[2].id;
    let lost = fork(&follower, 1, common, 4, 40);
    let lost = fork(&follower, 1, lost, 5, 41);
    let won = fork(&cluster.server, 2, common, 4, 50);
    cluster.rebase(Some(won), Retention::NOTHING);
    cluster.send_generation(0);
    assert_eq!(generations(&follower), generations(&cluster.server));
    let lost = follower.resolve(&lost.to_string()).unwrap();
    assert_eq!(restore(&follower, lost), state(41));
    assert_eq!(seqs(&follower), [5, 4], "the head of the one term, and of the other");
    verify_good(&follower);
    // Nothing is left to do, and doing it again does nothing.
    let base = list(&follower).into_iter().find(|info| info.base.is_none()).unwrap();
    assert_eq!(follower.retire_superseded(base.id).unwrap(), sustain_store::RetireReport::default());
}

/// An older generation that comes late, from a slow peer, is no reason to let go of a newer one.
#[test]
fn an_older_base_that_comes_late_supersedes_nothing_newer() {
    let mut cluster = Cluster::new(2);
    for _ in 0..3 {
        cluster.push(&[]);
    }
    let older = cluster.rebase(None, Retention::NOTHING);
    cluster.send(1, older);
    for _ in 0..3 {
        cluster.push(&[]);
    }
    cluster.rebase(None, Retention::NOTHING);
    cluster.send_generation(0);
    let follower = &cluster.followers[0];
    replicate(&cluster.followers[1], follower, older);
    assert_eq!(follower.retire_superseded(older).unwrap().dropped, []);
    follow(follower);
    cluster.assert_alike(0);
}
