//! Help that teaches, errors with a hint, published exit codes.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Bench, snapctl};

pub(crate) fn fails(arguments: &[&str], code: i32) -> String {
    let output = snapctl().args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed data");
    said
}

#[test]
fn every_command_explains_itself() {
    let files =
        ["push", "gather", "rebase", "gc", "pin", "pins", "unpin", "log", "verify", "mount", "cat", "diff"];
    let others = ["init", "key", "node", "status", "invite", "join", "remove", "service", "demo", "plan"];
    for command in files.into_iter().chain(others) {
        let output = snapctl().args([command, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage: snapctl"), "{command}");
        assert!(
            text.lines().next().is_some_and(|line| line.len() > 20 && !line.ends_with('.')),
            "{command}: {text}"
        );
        let teaches = text.contains("Example") && text.contains("Exit codes:");
        assert!(teaches || !files.contains(&command), "{command}: {text}");
    }
    for command in ["add", "rm", "ls", "check"] {
        let output = snapctl().args(["service", command, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage: snapctl service"), "{command}");
    }
    for command in ["list", "change", "export", "forget"] {
        let output = snapctl().args(["key", command, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage: snapctl key"), "{command}");
        assert!(text.contains("Example") && text.contains("Exit codes:"), "{command}: {text}");
    }
    let output = snapctl().arg("--help").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("Exit codes:"));
}

#[test]
fn errors_say_what_to_do_next_and_have_their_codes() {
    let bench = Bench::new();
    let store = bench.store();
    let store = store.to_str().unwrap();
    assert!(fails(&["log", "s"], 2).contains("hint: name a store with --store DIR"));
    let said = fails(&["--store", store, "log", "s"], 10);
    assert!(said.contains("hint: the first `snapctl push` makes the store"), "{said}");
    fails(&["--store", store, "push", "s", "--region", "ram"], 2);
    fails(&["--store", store, "push", "No Name", "--region", "ram=x"], 2);
    let said = fails(&["--store", store, "push", "s", "--region", "ram=/nonexistent"], 1);
    assert!(said.contains("can't read /nonexistent for region ram"), "{said}");
    bench.push("s", &[("ram", &bench.write("ram", b"x"))]);
    fails(&["--store", store, "log", "other"], 10);
    fails(&["--store", store, "gather", "s@-7", "--to", "/nonexistent"], 10);
    fails(&["--config", "/nonexistent/config.toml", "status"], 1);
}

/// Hints once named options that the command could not use.
#[test]
fn a_hint_names_only_what_the_command_can_use() {
    let bench = Bench::new();
    let store = bench.store();
    let store = store.to_str().unwrap();
    for command in [&["status"][..], &["node"], &["service", "ls"], &["service", "check"]] {
        let said = fails(command, 2);
        assert!(said.contains("no configuration given") && !said.contains("--store"), "{said}");
        let said = fails(&[&["--store", store], command].concat(), 2);
        assert!(said.contains("no use for --store") && said.contains("hint: name the node's"), "{said}");
    }
    let dir = bench.path("cluster");
    let init = ["init", "--nodes", "3", "--dir", dir.to_str().unwrap(), "--cluster"];
    let said = fails(&[&["--store", store], &init[..], &["home"]].concat(), 2);
    assert!(said.contains("`init` has no use for --store"), "{said}");
    assert!(fails(&[&init[..], &[""]].concat(), 2).contains("needs a name"));
    assert!(!dir.exists());
    assert!(fails(&["demo", "--snapshots", "0"], 2).contains("0 is not in 1..=100"));
    let help = snapctl().args(["init", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Global options:") && !help.contains("demo's"), "{help}");
}

/// The reader of a pipe that has had enough is not told that something failed.
#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let bench = Bench::new();
    bench.push("s", &[("ram", &bench.write("ram", b"x"))]);
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(reader);
    let mut log = snapctl();
    log.arg("--store").arg(bench.store()).args(["log", "s"]).stdout(std::os::fd::OwnedFd::from(writer));
    let output = log.stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "as a program that SIGPIPE ended");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn init_writes_private_keys_and_never_overwrites() {
    let bench = Bench::new();
    let dir = bench.path("cluster");
    let arguments = ["--json", "init", "--cluster", "home", "--nodes", "3", "--dir", dir.to_str().unwrap()];
    let output = snapctl().args(arguments).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["nodes"].as_array().unwrap().len(), 3);
    for node in value["nodes"].as_array().unwrap() {
        let config = std::path::Path::new(node["config"].as_str().unwrap());
        for secret in ["node.key", "cluster.secret"] {
            let mode = std::fs::metadata(config.with_file_name(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        let said = fails(&["--config", config.to_str().unwrap(), "status"], 12);
        assert!(said.contains("hint: start it with `snapctl node --config FILE`"), "{said}");
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("warning: no service is configured yet; `snapctl service add`"), "{said}");
    let again = snapctl().args(arguments).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("never overwritten") && !said.contains("warning"), "{said}");
}
