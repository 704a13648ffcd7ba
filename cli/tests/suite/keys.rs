//! Keys as a user meets them: listed, exported, changed, missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command_failover::{count_durably, example, planned};
use crate::support::{Bench, noise, patch, snapctl};

fn code_and_words(output: &std::process::Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A store of two services, of which one has three snapshots.
fn two_services(bench: &Bench) -> PathBuf {
    let path = bench.write("ram", &noise(1, 300_000));
    bench.push("web", &[("ram", &path)]);
    for step in 0..3 {
        patch(&path, step * 70_000, &noise(step + 2, 5_000));
        bench.push("mail", &[("ram", &path)]);
    }
    path
}

fn ids(list: &Value, service: &str) -> Vec<String> {
    let of = |keys: &&Value| keys["service"] == service;
    let keys = list.as_array().unwrap().iter().find(of).unwrap()["keys"].as_array().unwrap();
    keys.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_changed_key_seals_everything_at_the_next_rebase_and_an_exported_one_brings_it_back() {
    let bench = Bench::new();
    let path = two_services(&bench);
    let before = bench.json(&["key", "list"]);
    assert_eq!((ids(&before, "mail").len(), ids(&before, "web").len()), (1, 1));
    let changed = bench.json(&["key", "change", "mail"]);
    let waiting = bench.json(&["key", "list", "mail"]);
    assert_eq!(ids(&waiting, "mail"), [ids(&before, "mail")[0].as_str(), changed["key"].as_str().unwrap()]);
    let rebased = bench.json(&["rebase", "mail", "--if-due"]);
    assert_eq!(rebased["dropped"].as_array().unwrap().len(), 2, "{rebased}");
    let after = bench.json(&["key", "list"]);
    assert_eq!(ids(&after, "mail"), [changed["key"].as_str().unwrap()]);
    assert_eq!(ids(&after, "web"), ids(&before, "web"));

    let copy = bench.path("mail.copy");
    let export = ["key", "export", "mail", "--to", copy.to_str().unwrap()];
    assert_eq!(bench.json(&export)["keys"], serde_json::json!([changed["key"]]));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, said) = code_and_words(&bench.run(&export));
    assert!(code == Some(1) && said.contains("never overwritten"), "{said}");

    let file = bench.store().join("keys/mail");
    fs::copy(bench.store().join("keys/web"), &file).unwrap();
    let (code, said) = code_and_words(&bench.run(&["gather", "mail@latest", "--to", "/nonexistent/x"]));
    assert!(code == Some(14) && said.contains(changed["key"].as_str().unwrap()), "{said}");
    assert!(said.contains("docs/sealing.md"), "{said}");
    assert_eq!(bench.run(&["key", "list"]).status.code(), Some(14));
    assert_eq!(bench.run(&["verify"]).status.code(), Some(13), "a key that should be here is not");
    fs::copy(&copy, &file).unwrap();
    assert!(fs::read(bench.gather("mail@latest", "out").join("ram")).unwrap() == fs::read(path).unwrap());
}

#[test]
fn a_key_that_is_nowhere_is_told_by_its_service() {
    let bench = Bench::new();
    two_services(&bench);
    for (arguments, expected) in [
        (&["key", "change", "nobody"][..], 10),
        (&["key", "list", "nobody"], 10),
        (&["key", "export", "nobody", "--to", "/nonexistent/x"], 14),
        (&["key", "change"], 2),
    ] {
        let (code, said) = code_and_words(&bench.run(arguments));
        assert_eq!(code, Some(expected), "{arguments:?}: {said}");
        assert!(said.contains("hint"), "{arguments:?}: {said}");
    }
}

/// Runs a command for all these configurations.
fn for_all(configs: &[PathBuf], arguments: &[&str]) -> (Option<i32>, String, Value) {
    let mut command = snapctl();
    command.arg("--json").args(arguments);
    for config in configs {
        command.arg("--config").arg(config);
    }
    let output = command.output().unwrap();
    let (code, said) = code_and_words(&output);
    (code, said, serde_json::from_slice(&output.stdout).unwrap_or_default())
}

fn secret_of(config: &Path) -> PathBuf {
    config.with_file_name("counter.secret")
}

#[test]
fn a_service_gets_a_secret_of_its_own_on_all_nodes_and_a_missing_one_is_told() {
    let bench = Bench::new();
    let cluster = planned(&example(&bench));
    let configs: Vec<PathBuf> = (0..4).map(|node| cluster.config(node)).collect();
    let (code, said, _) = for_all(&configs, &["key", "change", "counter"]);
    assert_eq!(code, Some(0), "{said}");
    let files: Vec<Vec<u8>> = configs.iter().map(|config| fs::read(secret_of(config)).unwrap()).collect();
    assert!(files.iter().all(|file| *file == files[0]));
    assert_eq!(fs::metadata(secret_of(&configs[0])).unwrap().permissions().mode() & 0o777, 0o600);
    for config in &configs {
        assert!(fs::read_to_string(config).unwrap().contains("secret-file = \"counter.secret\""));
    }
    // Another change adds to it, and one of a single node makes the others differ.
    let (code, said, changed) = for_all(&configs[..1], &["key", "change", "counter"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said, _) = for_all(&configs, &["key", "change", "counter"]);
    assert!(code == Some(14) && said.contains("same secrets"), "{said}");
    fs::copy(secret_of(&configs[0]), secret_of(&configs[1])).unwrap();
    let copy = bench.path("copy");
    let (code, said, exported) =
        for_all(&configs[1..2], &["key", "export", "counter", "--to", copy.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(exported["keys"].as_array().unwrap().last(), Some(&changed["key"]));
    fs::remove_file(secret_of(&configs[1])).unwrap();
    let (code, _, checked) = for_all(&configs[1..2], &["service", "check"]);
    assert_eq!(code, Some(1));
    assert!(checked[0]["problems"].to_string().contains("counter.secret is not here"), "{checked}");
    // The cluster's own.
    let (code, said, _) = for_all(&configs, &["key", "change"]);
    assert_eq!(code, Some(0), "{said}");
    let text = fs::read_to_string(configs[2].with_file_name("cluster.secret")).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("secret ")).count(), 2);
}

/// With the greatest priority of those that are left it would take over, and could not read what it restores.
#[test]
fn a_node_without_the_key_stores_and_serves_and_is_not_elected() {
    let bench = Bench::new();
    let mut cluster = planned(&example(&bench));
    let configs: Vec<PathBuf> = (0..4).map(|node| cluster.config(node)).collect();
    assert_eq!(for_all(&configs, &["key", "change", "counter"]).0, Some(0));
    fs::remove_file(secret_of(&configs[1])).unwrap();
    (0..4).for_each(|node| cluster.spawn(node));
    let server = cluster.server(None);
    assert_eq!(server, 0);
    let (counted, id) = count_durably(&cluster, server);
    let problem = cluster.wait("the missing key to be told", || {
        Some(cluster.status(1)?["services"][0]["problem"]["what"].as_str()?.to_owned())
    });
    assert!(problem.contains("counter.secret is not here"), "{problem}");
    cluster.wait("snapshots at the node without the key", || {
        (cluster.at(1, &["log", "counter"])?.as_array()?.len() > 2).then_some(())
    });
    let verified = cluster.at(1, &["verify"]).unwrap();
    assert!(verified["packs_sealed"].as_u64().unwrap() > 0 && verified["chunks"] == 0, "{verified}");
    cluster.kill(server);
    assert_eq!(cluster.server(Some(server)), 2, "the next one that has the key");
    let (restored, same) = cluster.wait("an answer after the loss", || cluster.ask(3, "/peek"));
    assert_eq!(same, id);
    assert!(restored >= counted, "{counted} was durable, {restored} came back");
    assert_eq!(cluster.at(3, &["key", "list", "counter"]).unwrap()[0]["keys"][0]["here"], true);
}
