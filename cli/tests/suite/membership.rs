//! Nodes that join, move and are removed while the cluster runs.

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::support::{Bench, noise, snapctl};

fn run(arguments: &[&str]) -> Output {
    snapctl().args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a node sees so many others, all of them reachable, alive and near.
fn is_well(cluster: &Cluster, node: usize, others: usize) -> Option<()> {
    let status = cluster.status(node)?;
    let peers = status["peers"].as_array()?;
    let is_well =
        |peer: &Value| peer["reachable"] == true && peer["health"] == "alive" && peer["neighbour"] == true;
    (peers.len() == others && peers.iter().all(is_well)).then_some(())
}

fn wait_well(cluster: &Cluster, nodes: &[usize]) {
    for node in nodes {
        cluster.wait("the others", || is_well(cluster, *node, nodes.len() - 1));
    }
}

/// Has a node join by the inviter with this number, as the next one of the cluster, and starts it.
fn join(cluster: &mut Cluster, inviter: usize, more: &[&str]) -> String {
    let token =
        cluster.at(inviter, &[&["invite"], more].concat()).unwrap()["token"].as_str().unwrap().to_owned();
    let number = cluster.nodes.len();
    let config = cluster.config(number);
    let address = format!("{}:7411", cluster.address(u8::try_from(number).unwrap()));
    let name = format!("node-{}", number + 1);
    let output = snapctl()
        .args(["join", &token, "--name", &name, "--domain", "attic", "--address", &address, "--dir"])
        .arg(config.parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("start it with: snapctl node --config"));
    cluster.nodes.push(None);
    cluster.spawn(u8::try_from(number).unwrap());
    token
}

#[test]
fn a_node_joins_a_running_cluster_by_any_member_and_gets_its_snapshots() {
    let bench = Bench::new();
    let bytes = noise(5, 2 << 20);
    let region = format!("ram={}", bench.write("ram", &bytes).display());
    let mut cluster = Cluster::start(3, &[]);
    wait_well(&cluster, &[0, 1, 2]);
    let pushed = cluster.at(0, &["push", "files", "--region", &region]).unwrap();
    let snapshot = pushed["snapshot"].as_str().unwrap().to_owned();
    let token = join(&mut cluster, 2, &[]);
    wait_well(&cluster, &[0, 1, 2, 3]);
    let status = cluster.status(0).unwrap();
    let joined = status["peers"].as_array().unwrap().iter().find(|peer| peer["name"] == "node-4").unwrap();
    assert_eq!(joined["domain"], "attic");
    assert!(joined["rtt_ms"].is_u64());
    // Nobody pushes anything any more: it is given what there is.
    let held = || {
        cluster
            .at(3, &["log", "files"])?
            .as_array()?
            .iter()
            .any(|it| it["id"] == snapshot.as_str())
            .then_some(())
    };
    cluster.wait("the snapshot", held);
    let out = bench.path("out");
    cluster.wait("a gather", || cluster.at(3, &["gather", &snapshot, "--to", out.to_str().unwrap()]));
    assert_eq!(fs::read(out.join("ram")).unwrap(), bytes);
    // What it was given survives the rest, and it is known again after everybody was started anew.
    (0..4).for_each(|node| cluster.kill(node));
    (0..4).for_each(|node| cluster.spawn(node));
    wait_well(&cluster, &[0, 1, 2, 3]);

    let dir = bench.path("second");
    let dir = dir.to_str().unwrap();
    let again = run(&["join", &token, "--dir", dir, "--name", "fifth", "--address", "127.0.0.1:1"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(said(&again).contains("hint: make another token with `snapctl invite`"), "{}", said(&again));
    assert!(!bench.path("second/config.toml").exists());
    let four = cluster.config(3);
    let there = run(&["join", &token, "--name", "x", "--dir", four.parent().unwrap().to_str().unwrap()]);
    assert!(said(&there).contains("a node is there already"), "{}", said(&there));
    for (token, code, what) in [("sustain-join-00", 2, "copy all of what"), ("hello", 2, "no invitation")] {
        let wrong = run(&["join", token, "--dir", dir, "--name", "fifth"]);
        assert_eq!(wrong.status.code(), Some(code), "{}", said(&wrong));
        assert!(said(&wrong).contains(what), "{}", said(&wrong));
    }
    // The inviter is away: another exit code, and the token works once it is back.
    let invited = cluster.at(1, &["invite", "--holder", "--valid", "1h"]).unwrap();
    assert_eq!(invited["holder"], true);
    let token = invited["token"].as_str().unwrap();
    cluster.kill(1);
    let call = ["join", token, "--dir", dir, "--name", "fifth", "--listen", "127.0.0.1:7499"];
    let away = run(&call);
    assert_eq!(away.status.code(), Some(12), "{}", said(&away));
    cluster.spawn(1);
    cluster.wait("the inviter", || cluster.status(1));
    let joined = run(&call);
    assert!(joined.status.success(), "{}", said(&joined));
    assert!(!bench.path("second/cluster.secret").exists(), "who only holds gets no secret");
    let config = fs::read_to_string(bench.path("second/config.toml")).unwrap();
    assert!(!config.contains("secret-file"), "{config}");
}

#[test]
fn a_removed_node_stops_and_is_refused_for_ever() {
    let mut cluster = Cluster::start(4, &[]);
    wait_well(&cluster, &[0, 1, 2, 3]);
    let configs: Vec<String> = (0..4).map(|node| cluster.config(node).to_str().unwrap().to_owned()).collect();
    let config = |node: usize| configs[node].clone();
    let asks = run(&["remove", "node-4", "--config", &config(0)]);
    assert!(said(&asks).contains("hint: `--yes` asks nothing"), "{}", said(&asks));
    let itself = run(&["remove", "node-1", "--yes", "--config", &config(0)]);
    assert_eq!(itself.status.code(), Some(2), "{}", said(&itself));
    assert!(said(&itself).contains("at another node"), "{}", said(&itself));
    let nobody = run(&["remove", "node-9", "--yes", "--config", &config(0)]);
    assert_eq!(nobody.status.code(), Some(10), "{}", said(&nobody));
    let id = cluster.status(3).unwrap()["id"].as_str().unwrap().to_owned();
    let removed = run(&["remove", &id[..12], "--yes", "--config", &config(0)]);
    assert!(removed.status.success(), "{}", said(&removed));
    // It is told, and stops by itself.
    let mut process = cluster.nodes[3].take().unwrap();
    let ended = cluster.wait("its end", || process.try_wait().unwrap());
    assert_eq!(ended.code(), Some(15), "{}", cluster.log(3));
    assert!(cluster.log(3).contains("removed from the cluster by node-1"), "{}", cluster.log(3));
    wait_well(&cluster, &[0, 1, 2]);
    let status = cluster.status(2).unwrap();
    assert_eq!(status["removed"][0]["name"], "node-4");
    let again = run(&["node", "--config", &config(3)]);
    assert_eq!(again.status.code(), Some(15), "{}", said(&again));
    assert!(said(&again).contains("hint: to have the machine back, join with a new key"), "{}", said(&again));
    // All forgotten on its side, and everybody started anew: it is refused by what the others have kept.
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.spawn(node));
    let roster = cluster.config(3).with_file_name("node.roster");
    fs::remove_file(&roster).unwrap();
    cluster.spawn(3);
    let mut process = cluster.nodes[3].take().unwrap();
    let ended = cluster.wait("its end", || process.try_wait().unwrap());
    assert_eq!(ended.code(), Some(15), "{}", cluster.log(3));
    wait_well(&cluster, &[0, 1, 2]);
    assert!((0..3).any(|node| cluster.log(node).contains("a node that was removed calls")));
    // What can't be read is not guessed.
    fs::write(&roster, b"SURf").unwrap();
    let damaged = run(&["node", "--config", cluster.config(3).to_str().unwrap()]);
    assert_eq!(damaged.status.code(), Some(13), "{}", said(&damaged));
    assert!(said(&damaged).contains("hint: move that file away"), "{}", said(&damaged));
}

#[test]
fn a_node_whose_address_changes_is_found_by_all() {
    let mut cluster = Cluster::start(3, &[]);
    wait_well(&cluster, &[0, 1, 2]);
    cluster.kill(2);
    let (old, new) = (format!("{}:7411", cluster.address(2)), format!("{}:7411", cluster.address(9)));
    let path = cluster.config(2);
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains(&old));
    fs::write(&path, config.replace(&old, &new)).unwrap();
    cluster.spawn(2);
    wait_well(&cluster, &[0, 1, 2]);
    // The configurations of the others still have the old one; what they were told counts, also after a restart.
    (0..2).for_each(|node| cluster.kill(node));
    (0..2).for_each(|node| cluster.spawn(node));
    wait_well(&cluster, &[0, 1, 2]);
    for node in 0..2 {
        let status = cluster.status(node).unwrap();
        assert!(status["peers"].as_array().unwrap().iter().any(|peer| peer["address"] == new.as_str()));
    }
}

#[test]
fn halves_that_never_run_together_find_each_other_once_they_do() {
    let mut cluster = Cluster::start(3, &[]);
    wait_well(&cluster, &[0, 1, 2]);
    // The fourth joins while the third is away, which hears of it only from the rest.
    cluster.kill(2);
    join(&mut cluster, 0, &[]);
    for node in [0, 1] {
        let knows = || (cluster.status(node)?["peers"].as_array()?.len() == 3).then_some(());
        cluster.wait("the fourth", knows);
    }
    cluster.kill(0);
    cluster.kill(3);
    cluster.kill(1);
    cluster.spawn(2);
    cluster.spawn(3);
    let started = Instant::now();
    // The third has never heard of the fourth, but that one knows it from the roster, calls it, and is refused.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.status(2).unwrap()["peers"].as_array().unwrap().len(), 2);
    cluster.spawn(0);
    cluster.spawn(1);
    wait_well(&cluster, &[0, 1, 2, 3]);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

/// Nothing hinted at the services: a machine that joined held their snapshots, and never ran one.
#[test]
fn a_node_that_joins_is_told_of_the_services_and_what_it_takes_to_run_them() {
    let bench = Bench::new();
    let programs = crate::command_failover::example(&bench);
    let mut cluster = crate::command_failover::planned(&programs);
    cluster.spawn(0);
    cluster.wait("the first node", || cluster.status(0));
    let join = |number: u8, invite: &[&str], more: &[&str]| {
        let invited = cluster.at(0, &[&["invite"], invite].concat()).unwrap();
        let dir = bench.path(&format!("joined-{number}"));
        let address = cluster.address(number);
        let output = snapctl()
            .args(["join", invited["token"].as_str().unwrap(), "--name", &format!("joined-{number}")])
            .args(["--address", &format!("{address}:7411"), "--dir", dir.to_str().unwrap()])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        (dir.join("config.toml"), address, String::from_utf8(output.stdout).unwrap())
    };
    let services = |config: &std::path::Path| -> Value {
        let output = run(&["--json", "service", "ls", "--config", config.to_str().unwrap()]);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (config, address, printed) = join(4, &[], &[]);
    assert!(printed.contains("service counter: this node does not run it\n"), "{printed}");
    let command =
        printed.lines().find_map(|line| line.split_once("to have it run here, too: snapctl ")).unwrap().1;
    let added = run(&command.split_whitespace().collect::<Vec<_>>());
    assert!(added.status.success(), "{command}: {}", said(&added));
    let by_hand = services(&config);
    assert_eq!(by_hand[0]["service"], "counter");
    assert_eq!(by_hand[0]["forwards"][0]["listen"], format!("{address}:8080"));

    let (config, address, printed) = join(5, &[], &["--with-services"]);
    assert!(printed.contains("service counter: it may run here, too\n"), "{printed}");
    let adopted = services(&config);
    assert_eq!(adopted[0]["command_folder"], programs.to_str().unwrap());
    assert_eq!(adopted[0]["forwards"][0]["listen"], format!("{address}:8080"));
    assert_eq!(adopted[0]["first_server"], by_hand[0]["first_server"]);

    // Who is to hold only is told no more than the names.
    let (config, _, printed) = join(6, &["--holder"], &["--with-services"]);
    assert!(printed.contains("service counter: this node holds its snapshots\n"), "{printed}");
    assert!(!printed.contains("service add"), "{printed}");
    assert_eq!(services(&config), serde_json::json!([]));

    // What is not on the machine is named, and nothing is added that could not run.
    let elsewhere = bench.path("elsewhere");
    fs::rename(&programs, &elsewhere).unwrap();
    let (config, _, printed) = join(7, &[], &["--with-services"]);
    assert!(
        printed.contains(&format!("there is no folder {} on this machine", programs.display())),
        "{printed}"
    );
    assert_eq!(services(&config), serde_json::json!([]));
    cluster.kill(0);
}
