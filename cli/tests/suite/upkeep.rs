//! Pins, retention and collections, as a user meets them.

use std::fs;

use serde_json::Value;

use crate::mounting::Mounted;
use crate::support::{Bench, files_below, noise, patch, snapctl};
use crate::usage::fails;

/// A store with so many snapshots of service `s`, and their contents.
fn pushed(bench: &Bench, count: u64) -> Vec<(String, Vec<u8>)> {
    let path = bench.write("ram", &noise(1, 1 << 20));
    let push = |step: u64| {
        patch(&path, step * 65_536 % (1 << 20), &noise(step + 9, 65_536));
        let pushed = bench.push("s", &[("ram", &path)]);
        (pushed["snapshot"].as_str().unwrap().to_owned(), fs::read(&path).unwrap())
    };
    (0..count).map(push).collect()
}

fn numbers(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|snapshot| snapshot["seq"].as_u64().unwrap()).collect()
}

fn why(snapshot: &Value) -> Vec<&str> {
    snapshot["why"].as_array().unwrap().iter().map(|reason| reason["why"].as_str().unwrap()).collect()
}

#[test]
fn a_dry_run_says_what_the_run_then_does() {
    let bench = Bench::new();
    let snapshots = pushed(&bench, 6);
    bench.json(&["pin", "s@-4", "--name", "mine"]);
    let arguments = ["gc", "s", "--keep-last", "2"];
    let before = files_below(&bench.store());
    let mut said = bench.json(&[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(files_below(&bench.store()), before, "a dry run has changed something");
    let done = bench.json(&arguments);
    assert_eq!(said["dry_run"], true);
    said["dry_run"] = false.into();
    assert_eq!(said, done);
    let report = &done["services"][0];
    assert_eq!((numbers(&report["goes"]), numbers(&report["stays"])), (vec![1, 3, 4], vec![2, 5, 6]));
    assert_eq!(why(&report["stays"][0]), ["pinned"]);
    assert_eq!(why(&report["stays"][1]), ["retained"]);
    assert!(why(&report["stays"][2]).contains(&"head"));
    for (number, (id, bytes)) in (1..).zip(&snapshots) {
        if [2, 5, 6].contains(&number) {
            let out = bench.gather(id, &format!("out{number}"));
            assert_eq!(&fs::read(out.join("ram")).unwrap(), bytes);
        }
    }
    let last = ["gc", "s", "--keep-last", "1", "--dry-run"];
    let text = snapctl().arg("--store").arg(bench.store()).args(last).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("pinned as mine") && text.contains("would be freed"), "{text}");
    assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
}

#[test]
fn without_a_rule_nothing_is_dropped() {
    let bench = Bench::new();
    pushed(&bench, 3);
    let report = bench.json(&["gc"]);
    assert_eq!(report["services"][0]["goes"].as_array().unwrap().len(), 0);
    assert_eq!(bench.json(&["log", "s"]).as_array().unwrap().len(), 3);
}

#[test]
fn pins_are_listed_kept_by_a_rebase_and_taken_away() {
    let bench = Bench::new();
    let snapshots = pushed(&bench, 3);
    let pin = bench.json(&["pin", &snapshots[0].0]);
    assert_eq!(pin["name"].as_str().unwrap(), &snapshots[0].0[..12]);
    let rebased = bench.json(&["rebase", "s"]);
    assert_eq!(rebased["dropped"].as_array().unwrap().len(), 1);
    let listed = bench.json(&["pins"]);
    let now = listed[0]["snapshot"].as_str().unwrap();
    assert_eq!(fs::read(bench.gather(now, "out").join("ram")).unwrap(), snapshots[0].1);
    let store = bench.store();
    let store = store.to_str().unwrap();
    fails(&["--store", store, "unpin", "other"], 10);
    assert!(
        fails(&["--store", store, "pin", "s@latest", "--name", &snapshots[0].0[..12]], 2).contains("unpin")
    );
    bench.json(&["unpin", &snapshots[0].0[..12]]);
    assert_eq!(
        bench.json(&["gc", "s", "--keep-last", "1"])["services"][0]["goes"].as_array().unwrap().len(),
        1
    );
    assert_eq!(bench.json(&["log", "s"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_rebase_that_is_not_due_is_not_done_and_a_dry_one_only_told() {
    let bench = Bench::new();
    pushed(&bench, 3);
    let growth = bench.json(&["rebase", "s", "--if-due"]);
    assert_eq!(growth["growth"]["deltas"], 2);
    let before = files_below(&bench.store());
    let said = bench.json(&["rebase", "s", "--dry-run"]);
    assert_eq!(files_below(&bench.store()), before);
    assert_eq!(bench.json(&["rebase", "s"]), said);
    pushed(&bench, 61);
    assert_eq!(bench.json(&["rebase", "s", "--if-due"])["dropped"].as_array().unwrap().len(), 61);
}

/// Packs that a mount was reading were told to be gone, and took their room.
#[test]
fn packs_that_somebody_reads_are_held_and_not_gone() {
    let bench = Bench::new();
    let snapshots = pushed(&bench, 2);
    bench.write("ram", &noise(77, 1 << 20));
    bench.push("s", &[("ram", &bench.path("ram"))]);
    let Some(mounted) = Mounted::start(&bench, &[]) else { return };
    let open = fs::File::open(mounted.point.join("s").join(&snapshots[1].0).join("ram")).unwrap();
    let store = bench.store();
    let gc = snapctl().arg("--store").arg(&store).args(["gc", "s", "--keep-last", "1"]).output().unwrap();
    let said = String::from_utf8(gc.stdout).unwrap();
    assert!(said.contains("2 more packs: 1.") && said.contains("held until its reader is done"), "{said}");
    drop(open);
    bench.push("s", &[("ram", &bench.write("ram", &noise(78, 1 << 20)))]);
    let open = fs::File::open(mounted.point.join("s/latest/ram")).unwrap();
    fs::read(mounted.point.join("s/latest/ram")).unwrap();
    bench.push("s", &[("ram", &bench.write("ram", &noise(79, 1 << 20)))]);
    let rebased = bench.json(&["rebase", "s"]);
    assert!(rebased["packs_held"].as_u64() > Some(0), "{rebased}");
    assert!(rebased["bytes_held"].as_u64() > Some(1 << 20), "{rebased}");
    drop(open);
}
