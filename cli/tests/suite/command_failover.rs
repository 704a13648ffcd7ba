//! A plain process instead of a virtual machine, the whole way: added by `service add` to four nodes, counted,
//! killed with its node, and taken over by another with the state that it had.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::support::{Bench, files_below, processes_with, snapctl};

/// Builds the example of `testdata/command-example`.
pub(crate) fn example(bench: &Bench) -> PathBuf {
    let folder = bench.path("programs");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/command-example/build");
    assert!(Command::new(build).arg(&folder).status().unwrap().success(), "the example can't be built");
    folder
}

/// Four nodes that run the example.
pub(crate) fn start(programs: &Path) -> Cluster {
    let mut cluster = planned(programs);
    (0..4).for_each(|node| cluster.spawn(node));
    cluster
}

/// The same, but none is started.
pub(crate) fn planned(programs: &Path) -> Cluster {
    let cluster = Cluster::planned(4, &[]);
    let mut add = snapctl();
    add.args(["--json", "service", "add", "counter", "--interval", "250ms", "--forward", "8080:80"]);
    add.arg("--command-dir").arg(programs);
    for node in 0..4 {
        add.arg("--config").arg(cluster.config(node));
    }
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let value: serde_json::Value = serde_json::from_slice(&added.stdout).unwrap();
    assert_eq!(value["other_nodes"], serde_json::json!([]));
    cluster
}

/// Counts until what was counted is durable; returns the count and what the process calls itself.
pub(crate) fn count_durably(cluster: &Cluster, server: usize) -> (u64, String) {
    let (_, id) = cluster.wait("the first answer", || cluster.ask(3, "/count"));
    let mut counted = 0;
    for _ in 0..20 {
        counted = cluster.wait("a count", || cluster.ask(3, "/count")).0;
    }
    cluster.wait_for_durability(server);
    (counted, id)
}

/// Durable meant two copies, and one of them has rotted: the node that takes over had to give up, and the next one
/// with it.
#[test]
fn a_successor_whose_packs_are_damaged_has_them_sent_again() {
    let bench = Bench::new();
    let mut cluster = start(&example(&bench));
    let server = cluster.server(None);
    let (counted, id) = count_durably(&cluster, server);
    let store = cluster.config(1).with_file_name("store");
    let packs: Vec<PathBuf> =
        files_below(&store).into_iter().filter(|path| path.extension() == Some("pack".as_ref())).collect();
    assert!(!packs.is_empty());
    for pack in &packs {
        let mut bytes = std::fs::read(pack).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(pack, bytes).unwrap();
    }
    cluster.kill(server);
    assert_eq!(cluster.server(Some(server)), 1, "the greatest priority takes over");
    let (restored, same) = cluster.wait("an answer after the loss", || cluster.ask(3, "/peek"));
    assert_eq!(same, id, "it was begun anew, not restored");
    assert!(restored >= counted, "{counted} was durable, {restored} came back");
    let log = std::fs::read_to_string(cluster.config(1).with_file_name("log")).unwrap();
    assert!(log.contains("packs are missing or damaged"), "nothing had to be mended: {log}");
}

#[test]
fn a_plain_process_survives_the_loss_of_its_node() {
    let bench = Bench::new();
    let programs = example(&bench);
    let mut cluster = start(&programs);
    let server = cluster.server(None);
    assert_eq!(server, 0, "the node of the first configuration begins");
    let (counted, id) = count_durably(&cluster, server);
    let refused =
        snapctl().args(["service", "rm", "counter", "--config"]).arg(cluster.config(server)).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(11), "{}", String::from_utf8_lossy(&refused.stderr));
    // It is nobody's VM, and its rebases need no files under another name.
    let mut rebase = snapctl();
    let rebase = rebase.args(["rebase", "counter", "--config"]).arg(cluster.config(server)).output().unwrap();
    let said = String::from_utf8_lossy(&rebase.stderr).into_owned();
    assert!(rebase.status.code() == Some(2) && said.contains("its server rebases it by itself"), "{said}");
    assert!(said.contains("hint: `rebase-after`") && !said.contains("VM"), "{said}");
    let listed = cluster.at(server, &["service", "ls"]).unwrap();
    assert_eq!((&listed[0]["role"], &listed[0]["driver"]), (&"server".into(), &"command".into()));
    // A candidate marked only the snapshots that a heartbeat happened to name.
    let marked = |node: usize| {
        let log = cluster.at(node, &["log", "counter"])?;
        let first = log.as_array()?.iter().position(|snapshot| snapshot["durable"] == false);
        let durable = &log.as_array()?[..first.unwrap_or(log.as_array()?.len())];
        // All but the newest ones, which are on their way.
        (durable.len() + 3 >= log.as_array()?.len() && durable.len() >= 5).then_some(())
    };
    (0..4).for_each(|node| cluster.wait("durable marks without gaps", || marked(node)));
    let checked = cluster.at(server, &["service", "check"]).unwrap();
    assert_eq!(checked[0]["ports"][0]["state"], "served by the running node");

    cluster.kill(server);
    let successor = cluster.server(Some(server));
    assert_eq!(successor, 1, "the greatest priority takes over");
    let (restored, same) = cluster.wait("an answer after the loss", || cluster.ask(3, "/peek"));
    assert_eq!(same, id, "it was begun anew, not restored");
    assert!(restored >= counted, "{counted} was durable, {restored} came back");
    cluster.wait("it counts on", || cluster.ask(2, "/count").filter(|(count, _)| *count > restored));
    let server_program = programs.join("server");
    // The killed node's process went with it, and only one serves now.
    cluster.wait("one process", || {
        (processes_with(&format!("{}\0127", server_program.display())).len() == 1).then_some(())
    });

    // A process that dies by itself is restored by the same node.
    let pid = |cluster: &Cluster| cluster.status(successor)?["services"][0]["vm_pid"].as_u64();
    let first = cluster.wait("the process", || pid(&cluster));
    let taken = |cluster: &Cluster| cluster.status(successor)?["services"][0]["snapshots_taken"].as_u64();
    cluster.wait("snapshots of the new reign", || taken(&cluster).filter(|taken| *taken > 1));
    assert!(Command::new("kill").args(["-KILL", &first.to_string()]).status().unwrap().success());
    cluster.wait("another process", || pid(&cluster).filter(|pid| *pid != first));
    assert_eq!(cluster.wait("an answer again", || cluster.ask(3, "/peek")).1, id);
    assert_eq!(cluster.server(None), successor);

    // The returned node follows, and its clients reach the service.
    cluster.spawn(0);
    let new_server = cluster.status(successor).unwrap()["id"].clone();
    cluster.wait("the returned node to follow", || {
        let service = &cluster.status(0)?["services"][0];
        (service["server"] == new_server && service["role"] == "candidate").then_some(())
    });
    assert_eq!(cluster.wait("an answer through it", || cluster.ask(0, "/peek")).1, id);
}

/// Takes snapshots as the example does. One that is told to is garbage, and the last one until a restore succeeds.
const SPOILT_SNAPSHOT: &str = r#"#!/bin/sh
set -eu
here=$(dirname "$0")
[ ! -e "$here/spoilt" ] || { echo "nothing more is taken" >&2; exit 1; }
[ -e "$here/spoil" ] || exec "$here/snapshot-well"
echo garbage > "$SUSTAIN_SNAPSHOT/state"
mv "$here/spoil" "$here/spoilt"
"#;

/// Fails on garbage, as tar does.
const WATCHED_RESTORE: &str = r#"#!/bin/sh
set -eu
here=$(dirname "$0")
tar -C "$SUSTAIN_STATE" -xf "$SUSTAIN_SNAPSHOT/state" || { echo "this is no state" >&2; exit 1; }
rm -f "$here/spoilt"
"#;

/// The newest snapshot was garbage, and hundreds of good ones were held: the service was down for ever.
#[test]
fn a_newest_snapshot_that_is_garbage_is_passed_over_for_the_next_older_one() {
    let bench = Bench::new();
    let programs = example(&bench);
    std::fs::rename(programs.join("snapshot"), programs.join("snapshot-well")).unwrap();
    // Written over, they stay executable.
    std::fs::copy(programs.join("stop"), programs.join("snapshot")).unwrap();
    std::fs::write(programs.join("snapshot"), SPOILT_SNAPSHOT).unwrap();
    std::fs::write(programs.join("restore"), WATCHED_RESTORE).unwrap();
    let cluster = start(&programs);
    let server = cluster.server(None);
    let (counted, id) = count_durably(&cluster, server);
    std::fs::write(programs.join("spoil"), "").unwrap();
    let refused = || cluster.log(server).contains("nothing more is taken").then_some(());
    cluster.wait("the snapshot after the garbage to fail", refused);
    let service = |node: usize| Some(cluster.status(node)?["services"][0].clone());
    let garbage = cluster.wait("durable garbage", || {
        let (durable, running) =
            (service(server)?["durable_seq"].clone(), service(server)?["running_seq"].clone());
        (durable == running).then_some(durable)
    });
    let pid = cluster.wait("the process", || service(server)?["vm_pid"].as_u64());
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());

    let (restored, same) = cluster.wait("an answer again", || cluster.ask(3, "/peek"));
    assert_eq!(same, id, "it was begun anew, not restored");
    assert!(restored >= counted, "{counted} was durable, {restored} came back");
    let logs: Vec<_> = (0..4).map(|node| cluster.log(node)).collect();
    let tries = logs.iter().filter(|log| log.contains("this is no state")).count();
    assert_eq!(tries, 4, "every node has tried it");
    let told =
        |log: &&String| log.contains(&format!("snapshot {garbage} (")) && log.contains("is passed over");
    assert_eq!(logs.iter().filter(told).count(), 1, "whoever goes on says so");
}
