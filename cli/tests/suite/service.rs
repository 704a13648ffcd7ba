//! `snapctl service`: what it explains, writes, and refuses.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::command_failover::example;
use crate::support::{Bench, snapctl};
use crate::usage::fails;

/// The configurations of a planned cluster of three on this machine.
fn planned(bench: &Bench) -> Vec<PathBuf> {
    let dir = bench.path("cluster");
    let mut init = snapctl();
    // Ports that other tests don't use; nobody listens on them here.
    init.args([
        "init",
        "--cluster",
        "home",
        "--nodes",
        "3",
        "--address",
        "127.9.1.1",
        "--address",
        "127.9.1.2",
    ]);
    init.args(["--address", "127.9.1.3", "--dir"]).arg(&dir);
    assert!(init.output().unwrap().status.success());
    (1..=3).map(|node| dir.join(format!("node-{node}/config.toml"))).collect()
}

pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = snapctl().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub(crate) fn disk(bench: &Bench) -> String {
    let path = bench.path("disk.qcow2").to_str().unwrap().to_owned();
    let arguments = ["create", "-q", "-f", "qcow2", &path, "64M"];
    assert!(Command::new("qemu-img").args(arguments).status().unwrap().success());
    path
}

#[test]
fn a_disk_image_becomes_a_service_on_all_nodes_and_is_taken_away_again() {
    let bench = Bench::new();
    let (configs, disk) = (planned(&bench), disk(&bench));
    let before: Vec<String> = configs.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let paths: Vec<&str> = configs.iter().map(|path| path.to_str().unwrap()).collect();
    let definition =
        ["mail", "--disk", &disk, "--memory", "512M", "--forward", "2525:25", "--forward", "1110:110"];

    let mut add = vec!["service", "add"];
    add.extend(definition);
    add.extend(["--accel", "tcg", "--config", paths[0], "--config", paths[1]]);
    let (code, said, errors) = run(&add);
    assert_eq!(code, Some(0), "{errors}");
    for line in [
        "type            1: a part of its data is enough and delays are acceptable",
        "warning: merging is not built yet: every side of a cut serves on",
        "survives        its server and 1 more; 3 nodes needed, 3 there",
        "memory          736.0 MiB on the node that serves",
        "disk            64.0 MiB for the guest",
        "unknown until it is measured",
        "127.9.1.1:2525 to 25 in the guest: free",
        "of node node-2",
        "run the same command on node-3, with --first-server node-1",
        "restart the node",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let text = fs::read_to_string(&configs[1]).unwrap();
    assert!(text.starts_with(&before[1]), "what was there stays:\n{text}");
    assert!(text.contains("listen = \"127.9.1.2:2525\""), "each node has its own address:\n{text}");
    assert_eq!(fs::read_to_string(&configs[2]).unwrap(), before[2]);

    let said = fails(&add, 1);
    assert!(
        said.contains("has a service mail already") && said.contains("hint: `snapctl service rm`"),
        "{said}"
    );
    let (_, listed, _) = run(&["--json", "service", "ls", "--config", paths[0]]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["forwards"][1]["guest-port"], 110);
    assert_eq!(listed[0]["disk"], disk.as_str());
    assert!(listed[0]["role"].is_null(), "no daemon runs");
    let (_, listed, _) = run(&["service", "ls", "--config", paths[0]]);
    assert!(listed.contains("mail     1     qemu"), "{listed}");

    // What is missing is told once, though two look for it.
    fs::remove_file(&disk).unwrap();
    let (code, checked, _) = run(&["--json", "service", "check", "mail", "--config", paths[0]]);
    let checked: Value = serde_json::from_str(&checked).unwrap();
    let problems = checked[0]["problems"].as_array().unwrap();
    assert_eq!((code, problems.len()), (Some(1), 1), "{problems:?}");
    assert!(problems[0].as_str().unwrap().contains("can't read the disk image"), "{problems:?}");

    let (code, said, errors) = run(&["service", "rm", "mail", "--config", paths[0], "--config", paths[1]]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("its snapshots stay in"), "{said}");
    let said = fails(&["service", "rm", "mail", "--config", paths[0]], 10);
    assert!(said.contains("hint: `snapctl service ls`"), "{said}");
}

#[test]
fn a_check_explains_without_changing_anything_and_fails_where_the_service_could_not_run() {
    let bench = Bench::new();
    let (configs, programs) = (planned(&bench), example(&bench));
    let path = configs[0].to_str().unwrap();
    let before = fs::read_to_string(path).unwrap();
    let check = |more: &[&str]| {
        let mut arguments = vec!["--json", "service", "check", "--config", path];
        arguments.extend(more);
        let (code, said, errors) = run(&arguments);
        (code, serde_json::from_str::<Value>(&said).unwrap_or_else(|_| panic!("{said}{errors}")))
    };
    let programs = programs.to_str().unwrap();
    let (code, found) =
        check(&["wiki", "--command-dir", programs, "--forward", "8080:80", "--tolerance", "3"]);
    assert_eq!(code, Some(0), "{found}");
    assert_eq!(found[0]["host"]["qemu_version"], "example server, snapshots by tar");
    let warnings = found[0]["warnings"].to_string();
    assert!(warnings.contains("merging is not built yet") && warnings.contains("unmerged"), "{found}");
    assert!(warnings.contains("need 5 nodes, there are 3"), "{found}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("{}:80", taken.local_addr().unwrap());
    let (code, found) = check(&["wiki", "--command-dir", "/nowhere", "--forward", &forward]);
    assert_eq!(code, Some(1));
    let problems: Vec<&str> =
        found[0]["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect();
    assert!(problems[0].contains("/nowhere/start"), "{problems:?}");
    assert!(problems[1].contains("in use by another program"), "{problems:?}");
    assert_eq!(check(&[]).1, serde_json::json!([]), "nothing is configured");
    assert_eq!(fs::read_to_string(path).unwrap(), before);
}

#[test]
fn what_cannot_be_sustained_is_refused_with_the_reason() {
    let bench = Bench::new();
    let configs = planned(&bench);
    let path = configs[0].to_str().unwrap();
    let before = fs::read_to_string(path).unwrap();
    let refused = |more: &[&str], code: i32| {
        let mut arguments = vec!["service", "add", "mail", "--config", path];
        arguments.extend(more);
        fails(&arguments, code)
    };
    let image = disk(&bench);
    let said = refused(&["--disk", &image, "--type", "cannot"], 2);
    assert!(said.contains("one side would answer wrongly"), "{said}");
    assert!(refused(&["--disk", &image, "--type", "4"], 2).contains("there is no type 4"));
    let said = refused(&["--forward", "25"], 2);
    assert!(said.contains("hint: name a disk image with --disk"), "{said}");
    assert!(refused(&["--disk", "/nowhere/disk"], 1).contains("/nowhere/disk"));
    assert!(refused(&["--disk", &image, "--forward", "25:0"], 2).contains("PORT, HOST:GUEST"));
    assert!(refused(&["--disk", &image, "--command-dir", "x"], 2).contains("cannot be used with"));
    let said = refused(&["--disk", &image, "--first-server", "moon"], 1);
    assert!(said.contains("first-server `moon` is no node"), "{said}");
    let said = refused(&["--disk", &image, "--forward", "25", "--forward", "26:25"], 1);
    assert!(said.contains("same guest-port"), "{said}");
    assert!(refused(&["--disk", &image, "--interval", "1ms"], 1).contains("under 100 ms"));
    // An image that leads to another file of this machine.
    let backed = bench.path("backed").to_str().unwrap().to_owned();
    let arguments = ["create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", &backed, "1M"];
    assert!(Command::new("qemu-img").args(arguments).status().unwrap().success());
    let said = refused(&["--disk", &backed], 1);
    assert!(
        said.contains("its guest would read that file") && said.contains("hint: `qemu-img convert"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(path).unwrap(), before, "a refusal changes nothing");

    let second = configs[1].to_str().unwrap();
    let said = fails(&["service", "ls", "--config", path, "--config", second], 2);
    assert!(said.contains("several configurations"), "{said}");
    assert_eq!(fails(&["service", "check", "mail", "--config", path], 10).lines().count(), 2);
}

/// A socket that takes connections and answers nothing is what a daemon is that was stopped or hangs.
#[test]
fn a_daemon_that_gives_no_answer_is_not_waited_for() {
    let bench = Bench::new();
    let configs = planned(&bench);
    let (path, disk) = (configs[0].to_str().unwrap(), disk(&bench));
    let add = ["service", "add", "mail", "--disk", &disk, "--forward", "2525:25", "--config", path];
    assert_eq!(run(&add).0, Some(0));
    let _silent = std::os::unix::net::UnixListener::bind(configs[0].with_file_name("admin.sock")).unwrap();
    std::thread::scope(|scope| {
        let on = |words: &'static [&'static str]| {
            scope.spawn(move || {
                let began = std::time::Instant::now();
                let mut arguments = words.to_vec();
                arguments.extend(["--config", path]);
                let result = run(&arguments);
                assert!(began.elapsed().as_secs() < 60, "{words:?} waited for the daemon");
                result
            })
        };
        let (list, check) = (on(&["service", "ls"]), on(&["service", "check"]));
        let (remove, status) = (on(&["service", "rm", "mail"]), on(&["status"]));
        for explained in [list, check] {
            let (code, said, errors) = explained.join().unwrap();
            assert!(code == Some(0) && said.contains("mail"), "{said}{errors}");
            assert!(
                errors.contains("warning: the daemon on") && errors.contains("gave no answer"),
                "{errors}"
            );
        }
        for refused in [remove, status] {
            let (code, said, errors) = refused.join().unwrap();
            assert_eq!(code, Some(12), "{said}{errors}");
            assert!(errors.contains("gave no answer") && errors.contains("hint: "), "{errors}");
        }
    });
    let (code, _, errors) = run(&["service", "rm", "mail", "--force", "--config", path]);
    assert_eq!(code, Some(0), "{errors}");
}

/// There was no way to give a service its own secret but to edit each configuration.
#[test]
fn a_service_is_added_with_a_secret_of_its_own() {
    let bench = Bench::new();
    let (configs, programs) = (planned(&bench), example(&bench));
    let store = bench.store();
    bench.push("wiki", &[("ram", &bench.write("ram", b"x"))]);
    let secret = bench.path("wiki.secret");
    let secret = secret.to_str().unwrap();
    let add = |more: &[&str]| {
        let definition = ["service", "add", "wiki", "--command-dir", programs.to_str().unwrap()];
        run(&[&definition[..], &["--secret-file", secret, "--config", configs[0].to_str().unwrap()], more]
            .concat())
    };
    let (code, _, errors) = add(&[]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("wiki.secret is not here") && errors.contains("copy it from a node"), "{errors}");
    let export = ["--store", store.to_str().unwrap(), "key", "export", "wiki", "--to", secret];
    assert_eq!(run(&export).0, Some(0));
    fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (_, _, errors) = add(&[]);
    assert!(errors.contains("mode 644") && errors.contains("chmod 600"), "{errors}");
    fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (code, said, errors) = add(&[]);
    assert_eq!(code, Some(0), "{said}{errors}");
    let text = fs::read_to_string(&configs[0]).unwrap();
    assert!(text.contains(&format!("secret-file = \"{secret}\"")), "{text}");
}
