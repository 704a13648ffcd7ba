//! The guest asks its node: a program in it wants to know when what it did is safe, before and after a failover.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sustain_vmdriver::KERNEL_ARGS_DEFAULT;

use crate::cluster::Cluster;
use crate::support::guest;

/// The answers that the guest's program got while its VM was on this node: it prints them on the console.
fn answers(cluster: &Cluster, node: usize) -> Vec<Value> {
    let console = cluster.config(node).with_file_name("run").join("asker/console.log");
    let text = String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).into_owned();
    text.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect()
}

#[test]
fn guest_learns_when_what_it_did_is_durable_and_asks_again_after_a_failover() {
    let guest = guest();
    let mut cluster = Cluster::planned(4, &["--service", "asker", "--guest", guest.to_str().unwrap()]);
    for node in 0..4 {
        let path = cluster.config(node.into());
        let config = fs::read_to_string(&path).unwrap();
        // With this word the test guest asks for one barrier after the other.
        let arguments = format!("[services.vm]\nkernel-args = \"{KERNEL_ARGS_DEFAULT} sustain.ask\"\n");
        fs::write(&path, config.replace("[services.vm]\n", &arguments)).unwrap();
        cluster.spawn(node);
    }
    let server = cluster.server(None);
    let first =
        cluster.wait("three answers", || Some(answers(&cluster, server)).filter(|all| all.len() >= 3));
    let mut ids = BTreeSet::new();
    for answer in &first {
        assert_eq!((&answer["ask"], &answer["error"]), (&"barrier".into(), &Value::Null), "{answer}");
        let (seq, durable) = (answer["seq"].as_u64().unwrap(), answer["durable_seq"].as_u64().unwrap());
        assert!(durable >= seq, "{answer}");
        assert!(ids.insert(answer["id"].to_string()), "each question has one answer: {first:?}");
    }
    // Each barrier takes a snapshot of its own, that begins after the question.
    let numbers: BTreeSet<u64> = first.iter().map(|answer| answer["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), first.len(), "{first:?}");
    let status = cluster.status(server).unwrap();
    assert!(status["services"][0]["durable_seq"].as_u64() >= numbers.last().copied(), "{status}");

    let qemu = status["services"][0]["vm_pid"].as_u64().unwrap();
    cluster.kill(server);
    let _ = kill_process(Pid::from_raw(i32::try_from(qemu).unwrap()).unwrap(), Signal::KILL);
    let successor = cluster.server(Some(server));
    // Whether it waited for an answer when it was saved or not: it goes on asking, and is answered.
    let second = cluster.wait("answers in the second life", || {
        let all = answers(&cluster, successor);
        let newest = all.iter().filter_map(|answer| answer["seq"].as_u64()).max()?;
        (all.len() >= 2 && newest > *numbers.last()?).then_some(all)
    });
    assert!(second.iter().all(|answer| answer["error"].is_null()), "{second:?}");
}
