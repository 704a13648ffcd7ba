//! Pushes that are told what changed: the same snapshots for less work, and lists that are none are refused.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Bench, noise, patch};

const CHUNK: u64 = 65_536;

/// Pushes `ram` with a list of its changes; `more` is appended to the command.
fn push_changes(bench: &Bench, ram: &Path, list: &str, more: &[&str]) -> std::process::Output {
    let list = bench.write("ram.changed", list.as_bytes());
    let (ram, list) = (format!("ram={}", ram.display()), format!("ram={}", list.display()));
    let mut arguments = vec!["push", "s", "--region", &ram, "--changed", &list];
    arguments.extend_from_slice(more);
    bench.run(&arguments)
}

fn pushed(output: &std::process::Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &std::process::Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains(why) && said.contains("hint: "), "{said}");
}

#[test]
fn a_push_that_is_told_what_changed_stores_what_a_push_of_the_whole_does() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(1, 1 << 20));
    let device = bench.write("device", b"one");
    bench.push("s", &[("ram", &ram), ("device", &device)]);
    patch(&ram, 3 * CHUNK + 5, &noise(2, 9));
    patch(&ram, 7 * CHUNK, &vec![0; CHUNK as usize]);
    patch(&ram, (1 << 20) - 1, b"!");
    // A region without a list is read whole.
    fs::write(&device, b"two").unwrap();
    let list = format!("{} 9\n{} {CHUNK}\n\n{} 1\n", 3 * CHUNK + 5, 7 * CHUNK, (1 << 20) - 1);
    let more = format!("device={}", device.display());
    let told = pushed(&push_changes(&bench, &ram, &list, &["--region", &more, "--since", "s@latest"]));
    assert_eq!((&told["chunks_changed"], &told["chunks_new"]), (&4.into(), &3.into()));
    let out = bench.gather("s@latest", "out");
    assert!(fs::read(out.join("ram")).unwrap() == fs::read(&ram).unwrap());
    assert_eq!(fs::read(out.join("device")).unwrap(), b"two");
    // A push of everything finds nothing that the list had left out.
    assert_eq!(bench.push("s", &[("ram", &ram), ("device", &device)])["chunks_changed"], 0);
    // An empty list: nothing changed.
    let none = pushed(&push_changes(&bench, &ram, "", &["--region", &more]));
    assert_eq!(none["chunks_changed"], 0);
}

/// What a list does not name is not read: the snapshot has there what the one before has, until somebody names it.
#[test]
fn what_a_list_leaves_out_stays_as_it_was_until_it_is_read() {
    let bench = Bench::new();
    let before = noise(1, 1 << 20);
    let ram = bench.write("ram", &before);
    bench.push("s", &[("ram", &ram)]);
    patch(&ram, CHUNK, b"told");
    patch(&ram, 5 * CHUNK, b"kept back");
    let list = format!("{CHUNK} 4");
    assert_eq!(pushed(&push_changes(&bench, &ram, &list, &[]))["chunks_changed"], 1);
    let mut expected = fs::read(&ram).unwrap();
    let hidden = 5 * CHUNK as usize..6 * CHUNK as usize;
    expected[hidden.clone()].copy_from_slice(&before[hidden]);
    assert!(fs::read(bench.gather("s@latest", "out").join("ram")).unwrap() == expected);
    // A list that names more than changed costs reading it, and nothing else.
    assert_eq!(pushed(&push_changes(&bench, &ram, "0 1048576", &[]))["chunks_new"], 1);
    assert!(fs::read(bench.gather("s@latest", "out2").join("ram")).unwrap() == fs::read(&ram).unwrap());
}

#[test]
fn lists_that_are_none_or_count_from_another_snapshot_are_refused_and_store_nothing() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(1, 200_000));
    let first = push_changes(&bench, &ram, "0 1", &[]);
    refused(&first, "without a list of changes");
    let older = bench.push("s", &[("ram", &ram)])["snapshot"].as_str().unwrap().to_owned();
    bench.push("s", &[("ram", &ram)]);
    refused(&push_changes(&bench, &ram, "0 1", &["--since", &older]), "count from another snapshot");
    refused(&push_changes(&bench, &ram, "0 1\nram", &[]), "line 2 is not an offset and a length");
    refused(&push_changes(&bench, &ram, "199999 2", &[]), "line 1 reaches beyond the region's 200000 bytes");
    let other = format!("disk0={}", ram.display());
    refused(&push_changes(&bench, &ram, "", &["--changed", &other]), "no region of this push");
    let twice = format!("ram={}", ram.display());
    let said = push_changes(&bench, &ram, "", &["--changed", &twice]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("--changed names ram twice"));
    // The region has another size than in the snapshot before.
    patch(&ram, 200_000, b"longer");
    refused(&push_changes(&bench, &ram, "200000 6", &[]), "without a list of changes");
    let missing = bench.run(&["push", "s", "--region", &twice, "--changed", "ram=/nonexistent"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(bench.json(&["log", "s"]).as_array().unwrap().len(), 2);
}
