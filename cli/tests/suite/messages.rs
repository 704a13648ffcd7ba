//! What commands say to whoever does something unexpected, or has to know what is wrong.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Bench, flip, noise, pack_of, patch, snapctl};
use crate::usage::fails;

/// Exit code, standard output, standard error of a command without `--json`.
fn said(bench: &Bench, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = snapctl().arg("--store").arg(bench.store()).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn region(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// `log` listed nothing where all were damaged, and `verify` named neither snapshots nor where it had moved a pack.
#[test]
fn damaged_snapshots_are_listed_with_what_is_wrong_and_where_it_is() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 300_000));
    let first = bench.push("mail", &[("ram", &path)]);
    patch(&path, 0, b"changed");
    let second = bench.push("mail", &[("ram", &path)]);
    let pack = pack_of(&bench, &first);
    flip(&pack);
    let (code, verified, _) = said(&bench, &["verify"]);
    assert_eq!(code, Some(13), "{verified}");
    let aside = bench.store().join("aside").join(pack.file_name().unwrap());
    assert!(verified.contains(&format!("bad: {}", aside.display())), "{verified}");
    for (number, pushed) in [(1, &first), (2, &second)] {
        let short = &pushed["snapshot"].as_str().unwrap()[..12];
        assert!(verified.contains(&format!("mail number {number}, snapshot {short}")), "{verified}");
    }
    let (code, listed, warned) = said(&bench, &["log", "mail"]);
    assert_eq!(code, Some(13), "{listed}{warned}");
    assert_eq!(listed.matches("problem: pack ").count(), 2, "{listed}");
    assert!(listed.contains("(set aside): its hash"), "{listed}");
    assert!(warned.contains("2 snapshots of mail can't be read"), "{warned}");
    let (code, _, error) = said(&bench, &["gc", "mail"]);
    assert!(code == Some(13) && error.contains("no snapshot of mail can be read whole"), "{error}");
    let output = bench.run(&["log", "mail"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((listed[1]["id"] == second["snapshot"], listed[1]["problem"].is_string()), (true, true));
}

#[test]
fn a_name_that_is_not_here_is_answered_by_those_that_are() {
    let bench = Bench::new();
    let path = bench.write("ram", b"x");
    bench.push("mail", &[("ram", &path)]);
    bench.push("web", &[("ram", &path)]);
    let (code, _, error) = said(&bench, &["verify", "nope"]);
    assert_eq!(code, Some(10), "{error}");
    assert!(error.contains("no service and no snapshot nope here"), "{error}");
    assert!(error.contains("hint: here are snapshots of: mail, web"), "{error}");
    for (arguments, expected, hint) in [
        (&["log", "nope"][..], 10, "mail, web"),
        (&["gather", "nope@latest", "--to", "/nonexistent"], 10, "mail, web"),
        (&["gather", "mail", "--to", "/nonexistent"], 2, "mail@latest"),
        (&["cat", "mail@-5", "ram"], 10, "`snapctl log mail`"),
        (&["cat", "mail@latest", "disk0"], 10, "hint"),
        (&["rebase", "nope"], 10, "mail, web"),
        (&["gc", "nope"], 10, "mail, web"),
        (&["key", "forget", "mail"], 2, "`snapctl rebase SERVICE`"),
    ] {
        let (code, _, error) = said(&bench, arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {error}");
        assert!(error.contains(hint), "{arguments:?}: {error}");
    }
}

#[test]
fn a_list_of_changes_and_a_folder_that_are_none_are_refused_with_a_hint() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 100_000));
    bench.push("s", &[("ram", &path)]);
    let (store, ram) = (bench.store(), region("ram", &path));
    let store = store.to_str().unwrap();
    let list = region("ram", &bench.path("absent"));
    let push = ["--store", store, "push", "s", "--region", &ram, "--changed", &list];
    let error = fails(&push, 1);
    assert!(error.contains("hint: a list is a file"), "{error}");
    let error = fails(&["--store", path.to_str().unwrap(), "log", "s"], 2);
    assert!(
        error.contains("is no store: it is no folder") && error.contains("hint: name the folder"),
        "{error}"
    );
    let error = fails(&["--store", store, "gather", "s@latest", "--to", path.to_str().unwrap()], 2);
    assert!(error.contains("is no folder") && error.contains("hint: name a folder"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), noise(1, 100_000));
}

/// A disk that was left out by mistake was lost without a word, and a file of /proc became an empty region.
#[test]
fn a_push_tells_of_a_region_that_is_missing_and_takes_no_file_that_only_seems_empty() {
    let bench = Bench::new();
    let (ram, disk) = (bench.write("ram", b"ram"), bench.write("disk", b"disk"));
    bench.push("s", &[("ram", &ram), ("disk0", &disk)]);
    let (code, _, warned) = said(&bench, &["push", "s", "--region", &region("ram", &ram)]);
    assert_eq!(code, Some(0), "{warned}");
    assert!(warned.contains("warning: the snapshot before has a region disk0"), "{warned}");
    let pushed = bench.push("s", &[("disk0", &disk)]);
    assert_eq!(pushed["regions_left_out"], serde_json::json!(["ram"]));

    let (code, _, error) = said(&bench, &["push", "s", "--region", "x=/proc/meminfo"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("size is given as 0") && error.contains("hint: copy what it holds"), "{error}");
    let empty = bench.push("s", &[("x", &bench.write("empty", b""))]);
    assert_eq!(empty["bytes_in"], 0);
}

/// The signal may come before the command listens, or after it is done: so it is tried until one comes in between.
#[test]
fn an_interrupted_push_says_so_and_stores_nothing() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 64 << 20));
    for delay_ms in [20_u64, 40, 60, 80, 110, 150, 200, 300].into_iter().cycle().take(40) {
        let mut push = snapctl();
        push.arg("--store").arg(bench.store()).args(["push", "s", "--region", &region("ram", &path)]);
        let process = push.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let _ = kill_process(Pid::from_child(&process), Signal::INT);
        let output = process.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(130) {
            assert!(error.contains("interrupted; nothing was stored"), "{error}");
            assert_eq!(bench.run(&["log", "s"]).status.code(), Some(10), "nothing is there");
            return;
        }
        // It was over already: anew.
        fs::remove_dir_all(bench.store()).unwrap_or_default();
    }
    panic!("no signal came in time");
}
