//! `cat` and `diff` as a user sees them.

use std::process::Stdio;

use crate::support::{Bench, noise, patch, snapctl};
use crate::usage::fails;

/// What `cat` prints.
fn cat(bench: &Bench, arguments: &[&str]) -> Vec<u8> {
    let output = snapctl().arg("--store").arg(bench.store()).arg("cat").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    output.stdout
}

#[test]
fn cat_prints_the_bytes_that_were_asked_for() {
    let bench = Bench::new();
    let bytes = noise(1, 3_000_000);
    bench.push("s", &[("ram", &bench.write("ram", &bytes))]);
    assert!(cat(&bench, &["s@latest", "ram"]) == bytes);
    assert!(
        cat(&bench, &["s@latest", "ram", "--offset", "64KiB", "--length", "1M"])
            == bytes[65_536..65_536 + (1 << 20)]
    );
    assert_eq!(cat(&bench, &["s@latest", "ram", "--offset", "3000000"]), b"");
}

#[test]
fn cat_says_what_is_wrong_with_a_request() {
    let bench = Bench::new();
    bench.push("s", &[("ram", &bench.write("ram", &[7; 1_000]))]);
    let store = bench.store();
    let store = store.to_str().unwrap();
    let said = fails(&["--store", store, "cat", "s@latest", "ram", "--offset", "900", "--length", "200"], 2);
    assert!(said.contains("region ram has 1000 bytes, so it has none from 900 to 1100"), "{said}");
    assert!(said.contains("hint: "), "{said}");
    let said = fails(&["--store", store, "cat", "s@latest", "disk0"], 10);
    assert!(said.contains("has no region disk0, but ram"), "{said}");
    fails(&["--store", store, "cat", "s@-3", "ram"], 10);
    fails(&["--store", store, "cat", "s@latest", "ram", "--length", "much"], 2);
    assert!(fails(&["cat", "s@latest", "ram"], 2).contains("hint: name a store with --store DIR"));
    let json = snapctl().args(["--store", store, "--json", "cat", "s@latest", "ram"]).output().unwrap();
    assert_eq!(json.status.code(), Some(2));
}

#[test]
fn a_reader_of_cat_that_goes_away_ends_it_quietly() {
    let bench = Bench::new();
    bench.push("s", &[("ram", &bench.write("ram", &noise(1, 8 << 20)))]);
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut cat = snapctl();
    cat.arg("--store").arg(bench.store()).args(["cat", "s@latest", "ram"]);
    let cat = cat.stdout(std::os::fd::OwnedFd::from(writer)).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    std::io::Read::read_exact(&mut (&reader), &mut first).unwrap();
    drop(reader);
    let output = cat.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "as a program that SIGPIPE ended");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(first, noise(1, 16)[..10]);
}

#[test]
fn diff_tells_which_pages_changed_and_damage_has_its_code() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 400_000));
    bench.push("s", &[("ram", &path)]);
    patch(&path, 5 * 4_096, b"changed");
    patch(&path, 70_000, b"changed");
    let newest = bench.push("s", &[("ram", &path)]);
    let found = bench.json(&["diff", "s@-1", "s@latest"]);
    assert_eq!((&found["service"], &found["after"]), (&"s".into(), &newest["snapshot"]));
    let region = &found["regions"][0];
    assert_eq!((&region["pages_changed"], &region["chunks_changed"]), (&2.into(), &2.into()));
    assert_eq!(region["ranges"][0], serde_json::json!({ "offset": 5 * 4_096, "bytes": 4_096 }));
    assert_eq!(region["ranges"][1], serde_json::json!({ "offset": 17 * 4_096, "bytes": 4_096 }));
    let words =
        snapctl().arg("--store").arg(bench.store()).args(["diff", "s@-1", "s@latest"]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(
        words.contains("ram: 390.6 KiB, 2 pages changed (8.0 KiB) in 2 ranges\n  at 20480, 4.0 KiB"),
        "{words}"
    );

    let other = bench.push("other", &[("ram", &path)]);
    let other = other["snapshot"].as_str().unwrap();
    assert_eq!(bench.run(&["diff", "s@latest", other]).status.code(), Some(2));

    let pack = newest["packs"][0]["id"].as_str().unwrap();
    let packs = crate::support::files_below(&bench.store().join("packs"));
    let pack = packs.iter().find(|file| file.to_str().unwrap().contains(pack)).unwrap();
    let bytes = std::fs::read(pack).unwrap();
    for at in [60, bytes.len() / 3] {
        patch(pack, at as u64, &[bytes[at] ^ 1]);
    }
    for command in [&["diff", "s@-1", "s@latest"][..], &["cat", "s@latest", "ram"]] {
        let output = snapctl().arg("--store").arg(bench.store()).args(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(13), "{command:?}: {said}");
        assert!(said.contains("hint: `snapctl verify`"), "{said}");
    }
}
