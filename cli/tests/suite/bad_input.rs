//! Files of a store that are not what they should be, and files that change while they are pushed: the right bytes or
//! an error with its exit code, and the store works on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Bench, files_below, noise, pack_of, patch};

/// A store with a base and a delta, what each holds, and their packs, the base's first.
fn two_snapshots() -> (Bench, [Vec<u8>; 2], [PathBuf; 2]) {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 300_000));
    let mut contents = Vec::new();
    let mut packs = Vec::new();
    for step in 0..2 {
        patch(&path, 70_000, &[step; 9]);
        let pushed = bench.push("s", &[("ram", &path)]);
        contents.push(fs::read(&path).unwrap());
        packs.push(pack_of(&bench, &pushed));
    }
    (bench, contents.try_into().unwrap(), packs.try_into().unwrap())
}

/// Gathers a snapshot, which must fail with this code and write nothing; returns what was said.
fn gather_fails(bench: &Bench, snapshot: &str, code: i32) -> String {
    let out = bench.path("nothing");
    let output = bench.run(&["gather", snapshot, "--to", out.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!out.join("ram").exists() && !said.contains("panicked"), "{said}");
    assert!(said.contains("\nhint: "), "{said}");
    said
}

/// `verify` must fail and name these files.
fn verify_names(bench: &Bench, bad: &[&PathBuf]) {
    let output = bench.run(&["verify"]);
    assert_eq!(output.status.code(), Some(13));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for path in bad {
        // By its name: packs may have been set aside.
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(name), "{} is not named: {said}", path.display());
    }
}

#[test]
fn packs_with_each_others_bytes_are_found() {
    let (bench, _, [base, delta]) = two_snapshots();
    let (of_base, of_delta) = (fs::read(&base).unwrap(), fs::read(&delta).unwrap());
    fs::write(&base, of_delta).unwrap();
    fs::write(&delta, of_base).unwrap();
    gather_fails(&bench, "s@latest", 13);
    gather_fails(&bench, "s@-1", 13);
    verify_names(&bench, &[&base, &delta]);
}

#[test]
fn a_pack_that_is_cut_short_is_found_and_what_does_not_need_it_is_not_touched() {
    let (bench, [first, _], [_, delta]) = two_snapshots();
    let bytes = fs::read(&delta).unwrap();
    fs::write(&delta, &bytes[..bytes.len() / 2]).unwrap();
    gather_fails(&bench, "s@latest", 13);
    verify_names(&bench, &[&delta]);
    let first_id = bench.json(&["log", "s"])[0]["id"].as_str().unwrap().to_owned();
    assert!(fs::read(bench.gather(&first_id, "first").join("ram")).unwrap() == first);
}

#[test]
fn a_pack_that_is_there_twice_does_no_harm() {
    let (bench, [_, second], [base, _]) = two_snapshots();
    let other = base.with_file_name(format!("{}.pack", "ab".repeat(32)));
    let elsewhere = bench.store().join("packs").join("zz");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy(&base, &other).unwrap();
    fs::copy(&base, elsewhere.join(base.file_name().unwrap())).unwrap();
    assert!(fs::read(bench.gather("s@latest", "out").join("ram")).unwrap() == second);
    assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
}

#[test]
fn a_base_whose_manifest_is_gone_is_named() {
    let (bench, _, _) = two_snapshots();
    let id = bench.json(&["log", "s"])[0]["id"].as_str().unwrap().to_owned();
    let manifest = bench.store().join("manifests").join(format!("{id}.manifest"));
    fs::remove_file(&manifest).unwrap();
    gather_fails(&bench, "s@latest", 13);
    verify_names(&bench, &[&manifest]);
    // Also when the database, which knew it, is gone too: what it lists stays until somebody lets go of it.
    fs::remove_file(bench.store().join("journal")).unwrap();
    for _ in 0..2 {
        verify_names(&bench, &[&manifest]);
        assert_eq!(bench.run(&["gc"]).status.code(), Some(13));
    }
    assert_eq!(files_below(&bench.store().join("packs")).len(), 2);
    let would = bench.json(&["gc", "--forget-lost", "--dry-run"]);
    assert_eq!(would["forgotten"].as_array().unwrap().len(), 2);
    assert_eq!(bench.json(&["gc", "--forget-lost"])["forgotten"], would["forgotten"]);
    bench.json(&["gc"]);
    assert_eq!(files_below(&bench.store().join("packs")).len(), 0);
    let path = bench.write("other", &noise(7, 90_000));
    bench.push("s", &[("ram", &path)]);
    assert!(fs::read(bench.gather("s@latest", "out").join("ram")).unwrap() == fs::read(&path).unwrap());
}

/// It was exit code 1, and nothing said what to do.
#[test]
fn a_folder_in_place_of_the_database_is_named_with_what_to_do_about_it() {
    let (bench, [_, second], _) = two_snapshots();
    let index = bench.store().join("journal");
    fs::remove_file(&index).unwrap();
    fs::create_dir(&index).unwrap();
    let said = gather_fails(&bench, "s@latest", 13);
    assert!(said.contains("journal is damaged: this is a folder") && said.contains("hint: move "), "{said}");
    fs::rename(&index, bench.path("moved")).unwrap();
    assert!(fs::read(bench.gather("s@latest", "out").join("ram")).unwrap() == second);
}

#[test]
fn a_damaged_key_is_to_be_had_from_a_copy() {
    let (bench, _, _) = two_snapshots();
    patch(&bench.store().join("keys/s"), 40, b"!");
    let said = gather_fails(&bench, "s@latest", 13);
    assert!(said.contains("put the key back from a copy"), "{said}");
    // Another service is not concerned.
    let path = bench.write("other", &noise(7, 90_000));
    bench.push("other", &[("ram", &path)]);
    assert!(fs::read(bench.gather("other@latest", "out").join("ram")).unwrap() == fs::read(&path).unwrap());
    verify_names(&bench, &[&bench.store().join("keys/s")]);
}

/// Only an exit code said that something was wrong.
#[test]
fn a_folder_that_is_no_store_or_nobodys_to_read_is_told_with_what_to_do() {
    let bench = Bench::new();
    fs::create_dir(bench.store()).unwrap();
    fs::write(bench.store().join("letter"), b"dear").unwrap();
    let path = bench.write("ram", b"ram");
    let region = format!("ram={}", path.display());
    for arguments in [&["log", "s"][..], &["push", "s", "--region", &region]] {
        let output = bench.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("is no store") && said.contains("hint: name the folder of a store"), "{said}");
    }
}

#[test]
fn a_file_that_is_written_to_while_it_is_pushed_restores_to_what_was_read() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 16 << 20));
    let file = fs::File::options().write(true).open(&path).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                file.write_all_at(&[round as u8; 5_000], (round * 77_777) % (15 << 20)).unwrap();
            }
        });
        for round in 0..3 {
            bench.push("s", &[("ram", &path)]);
            // Every chunk is compared with its hash, and the whole with the manifest.
            let out = bench.gather("s@latest", &format!("out{round}"));
            assert_eq!(fs::metadata(out.join("ram")).unwrap().len(), 16 << 20);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
}

/// It was called a buffer that could not be filled.
#[test]
fn a_file_that_becomes_shorter_while_it_is_pushed_is_refused_with_the_reason() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 24 << 20));
    bench.push("s", &[("ram", &bench.write("small", b"before"))]);
    let region = format!("ram={}", path.display());
    let bytes = fs::read(&path).unwrap();
    // Cut at moments that come later and later, until one is in the middle of the push.
    for delay_ms in (0..400).step_by(5).cycle().take(200) {
        fs::write(&path, &bytes).unwrap();
        let mut push = crate::support::snapctl();
        push.arg("--store").arg(bench.store()).args(["push", "s", "--region", &region]);
        let push =
            push.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        let output = push.wait_with_output().unwrap();
        if output.status.code() == Some(1) {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("has become shorter while it was read"), "{said}");
            assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
            return;
        }
        assert!(output.status.success(), "{output:?}");
    }
    panic!("no cut came in time");
}
