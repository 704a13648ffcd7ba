//! A key changes in a cluster: followers that have the new one, that lack it, and that keep snapshots of their own.

use std::collections::BTreeMap;

use sustain_proto::{ServiceName, SnapshotId};
use sustain_store::{
    ClusterKeys, ErrorKind, KeySource, NoProgress, RebaseOptions, Retention, Secret, Secrets, Store,
    StoreOptions,
};

use crate::common::*;
use crate::keeping::{pin_name, state};
use crate::replication::replicate;

fn mail() -> ServiceName {
    service("mail")
}

/// Secrets of these bytes, the newest last.
fn secrets(bytes: &[u8]) -> Secrets {
    let mut secrets = Secrets::one(Secret::from_bytes([bytes[0]; 32]));
    bytes[1..].iter().for_each(|byte| secrets.add(Secret::from_bytes([*byte; 32])).unwrap());
    secrets
}

fn cluster(bytes: &[u8]) -> KeySource {
    KeySource::Cluster(ClusterKeys { secrets: Some(secrets(bytes)), services: BTreeMap::new() })
}

/// The service has secrets of its own.
fn own(bytes: Option<&[u8]>) -> KeySource {
    let services = BTreeMap::from([(mail(), bytes.map(secrets))]);
    KeySource::Cluster(ClusterKeys { secrets: Some(secrets(&[1])), services })
}

fn open(dir: &tempfile::TempDir, key: KeySource) -> Store {
    Store::open(dir.path(), StoreOptions { key, create: true, ..StoreOptions::default() }).unwrap()
}

fn rebase(store: &Store, keep_last: u32) -> SnapshotId {
    let retention = Retention { keep_last, ..Retention::NOTHING };
    let options = RebaseOptions { retention, ..RebaseOptions::default() };
    let prepared = store.prepare_rebase_with(&mail(), options, &NoProgress).unwrap();
    prepared.commit(std::time::Duration::ZERO).unwrap().base
}

fn seqs(store: &Store) -> Vec<u64> {
    store.snapshots(Some(&mail())).unwrap().iter().map(|info| info.seq).collect()
}

/// What a server sends after a rebase, and what a follower makes of it.
fn follow(from: &Store, to: &Store, base: SnapshotId) {
    replicate(from, to, from.resolve("mail@latest").unwrap());
    for held in from.held(&mail()).unwrap() {
        replicate(from, to, held);
    }
    to.retire_superseded(base).unwrap();
}

#[test]
fn what_a_follower_keeps_for_itself_is_sealed_under_the_new_key_there() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, follower) = (open(&a, cluster(&[1])), open(&b, cluster(&[1])));
    let ids: Vec<_> = (1..=5).map(|step| push(&server, "mail", &state(step)).snapshot).collect();
    for id in &ids {
        replicate(&server, &follower, *id);
    }
    follower.pin(ids[1], &pin_name("mine")).unwrap();
    drop((server, follower));
    // Both are given the new secret, and start again.
    let (server, follower) = (open(&a, cluster(&[1, 2])), open(&b, cluster(&[1, 2])));
    let base = rebase(&server, 2);
    let key = server.manifest(base).unwrap().0.key;
    assert_eq!(key, Secret::from_bytes([2; 32]).of_service(&mail()).id());
    for _ in 0..2 {
        follow(&server, &follower, base);
        assert_eq!(seqs(&follower), [2, 4, 5]);
        for info in follower.snapshots(None).unwrap() {
            assert_eq!(restore(&follower, info.id), state(info.seq as usize));
            assert_eq!(follower.manifest(info.id).unwrap().0.key, key);
        }
        let mine = follower.pins().unwrap()[0].snapshot.unwrap();
        assert_eq!(restore(&follower, mine), state(2));
        assert_eq!(follower.resolve(&ids[1].to_string()).unwrap(), mine);
        verify_good(&follower);
    }
    // Once nothing is sealed under the old secret, it can be taken away everywhere.
    for (dir, store) in [(&a, server), (&b, follower)] {
        let keys = store.keys(&mail()).keys;
        assert_eq!(keys.iter().map(|key| key.snapshots > 0).collect::<Vec<_>>(), [false, true]);
        drop(store);
        let store = open(dir, cluster(&[2]));
        assert_eq!(restore(&store, store.resolve("mail@latest").unwrap()), state(5));
        verify_good(&store);
        drop(store);
        let old = KeySource::Given([1; 32]);
        let refused = Store::open(dir.path(), StoreOptions { key: old, ..StoreOptions::default() });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Key);
    }
}

#[test]
fn a_follower_that_lacks_the_new_key_keeps_serves_and_checks_what_it_can_not_read() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let (server, follower) = (open(&dirs[0], cluster(&[1])), open(&dirs[1], cluster(&[1])));
    let ids: Vec<_> = (1..=4).map(|step| push(&server, "mail", &state(step)).snapshot).collect();
    for id in &ids {
        replicate(&server, &follower, *id);
    }
    follower.pin(ids[1], &pin_name("mine")).unwrap();
    drop(server);
    let server = open(&dirs[0], cluster(&[1, 2]));
    let base = rebase(&server, 0);
    follow(&server, &follower, base);
    // What is pinned here can't be described by the new base without its key, and stays as it was, with its base.
    assert_eq!(seqs(&follower), [1, 2, 4]);
    assert_eq!(restore(&follower, ids[1]), state(2));
    assert_eq!(try_restore(&follower, base).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(try_push(&follower, "mail", &state(9)).unwrap_err().kind(), ErrorKind::Key);
    let report = follower.verify(&NoProgress).unwrap();
    assert!(report.is_good() && report.packs_sealed == 1, "{report:?}");
    let missing: Vec<_> = follower.keys(&mail()).keys.into_iter().filter(|key| !key.here).collect();
    assert_eq!(missing.iter().map(|key| key.snapshots).collect::<Vec<_>>(), [1]);
    let third = open(&dirs[2], cluster(&[2]));
    replicate(&follower, &third, base);
    assert_eq!(restore(&third, base), state(4));
    drop(follower);
    // It comes late, and then all arrives where it should be.
    let follower = open(&dirs[1], cluster(&[1, 2]));
    follow(&server, &follower, base);
    assert_eq!(seqs(&follower), [2, 4]);
    for info in follower.snapshots(None).unwrap() {
        assert_eq!(restore(&follower, info.id), state(info.seq as usize));
        assert_eq!(info.base.unwrap_or(info.id), base);
    }
    verify_good(&follower);
}

#[test]
fn a_service_may_have_secrets_that_a_node_has_not() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, holder) = (open(&a, own(Some(&[7]))), open(&b, own(None)));
    let id = push(&server, "mail", &state(1)).snapshot;
    replicate(&server, &holder, id);
    assert!(!holder.keys(&mail()).can_seal());
    assert_eq!(try_restore(&holder, id).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(try_push(&holder, "mail", &state(2)).unwrap_err().kind(), ErrorKind::Key);
    // A new base could be sealed by the cluster's secret, for everybody who has that one to read.
    assert_eq!(holder.rebase(&mail(), None).unwrap_err().kind(), ErrorKind::Key);
    // Other services are not concerned.
    let web = push(&holder, "web", &state(1)).snapshot;
    replicate(&holder, &server, web);
    assert_eq!(restore(&server, web), state(1));
}

#[test]
fn a_service_that_is_given_a_secret_of_its_own_leaves_the_clusters_at_its_next_rebase() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, cluster(&[1]));
    (1..=3).for_each(|step| drop(push(&store, "mail", &state(step))));
    drop(store);
    let store = open(&dir, own(Some(&[7])));
    let next = push(&store, "mail", &state(4)).snapshot;
    assert_eq!(restore(&store, next), state(4));
    let base = rebase(&store, 3);
    assert_eq!(store.manifest(base).unwrap().0.key, Secret::from_bytes([7; 32]).id());
    assert_eq!(seqs(&store), [2, 3, 4]);
    verify_good(&store);
    drop(store);
    let store = open(&dir, cluster(&[1]));
    assert_eq!(try_restore(&store, base).unwrap_err().kind(), ErrorKind::Key);
}
