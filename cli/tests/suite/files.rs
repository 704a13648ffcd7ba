//! Files in, files out: bit for bit, whatever happens in between.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Bench, files_below, noise, pack_of, patch, snapctl};

#[test]
fn files_come_back_bit_for_bit_whatever_their_size() {
    let bench = Bench::new();
    let mut regions = Vec::new();
    for bytes in [0, 1, 65_535, 65_536, 65_537, 300_000] {
        regions.push((
            format!("noise{bytes}"),
            bench.write(&format!("n{bytes}"), &noise(bytes as u64 + 1, bytes)),
        ));
        regions.push((format!("zero{bytes}"), bench.write(&format!("z{bytes}"), &vec![0; bytes])));
    }
    let listed: Vec<_> = regions.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    let pushed = bench.push("files", &listed);
    let folder = bench.gather(pushed["snapshot"].as_str().unwrap(), "out");
    for (name, path) in listed {
        assert_eq!(fs::read(folder.join(name)).unwrap(), fs::read(path).unwrap(), "{name}");
    }
}

#[test]
fn a_sparse_gigabyte_comes_back_sparse() {
    let bench = Bench::new();
    let path = bench.write("ram", b"");
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    patch(&path, 123_456_789, &noise(7, 100_000));
    patch(&path, (1 << 30) - 5, b"tail!");
    let pushed = bench.push("sparse", &[("ram", &path)]);
    assert_eq!(pushed["bytes_in"], 1 << 30);
    assert!(pushed["bytes_new"].as_u64().unwrap() < 300_000, "{pushed}");
    let out = bench.gather("sparse@latest", "out").join("ram");
    assert!(fs::metadata(&out).unwrap().blocks() * 512 < 8 << 20, "zeros were written");
    let same = std::process::Command::new("cmp").arg(&path).arg(&out).status().unwrap();
    assert!(same.success());
}

#[test]
fn an_unchanged_push_stores_no_chunk_and_a_changed_one_only_what_changed() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 4 << 20));
    bench.push("s", &[("ram", &path)]);
    let same = bench.push("s", &[("ram", &path)]);
    assert_eq!((&same["chunks_new"], &same["chunks_changed"]), (&0.into(), &0.into()));
    for page in [3_u64, 200, 201] {
        patch(&path, page * 4_096, &noise(page, 4_096));
    }
    let changed = bench.push("s", &[("ram", &path)]);
    // Page 3 is in one chunk, pages 200 and 201 are in another.
    assert_eq!(changed["chunks_changed"], 2);
    assert!(changed["bytes_new"].as_u64().unwrap() < 2 * 65_536 + 16_384, "{changed}");
}

#[test]
fn a_push_never_rebases_and_a_rebase_says_what_it_drops_and_keeps_the_rest() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 1 << 20));
    let first = bench.push("s", &[("ram", &path)]);
    assert!(first["base"].is_null());
    let mut last = first.clone();
    for step in 0..4_u64 {
        patch(&path, step * 65_536, &noise(step + 9, 65_536));
        last = bench.push("s", &[("ram", &path)]);
        assert_eq!(last["base"], first["snapshot"]);
    }
    let before = fs::read(&path).unwrap();
    let rebased = bench.json(&["rebase", "s"]);
    assert_eq!(rebased["dropped"].as_array().unwrap().len(), 4);
    assert_eq!(rebased["kept"][0][0], last["snapshot"]);
    // Under its old id, the new one, and by position.
    for (number, selector) in
        [last["snapshot"].as_str().unwrap(), rebased["base"].as_str().unwrap(), "s@latest"]
            .into_iter()
            .enumerate()
    {
        let out = bench.gather(selector, &format!("out{number}"));
        assert_eq!(fs::read(out.join("ram")).unwrap(), before);
    }
    let gone = bench.run(&["gather", first["snapshot"].as_str().unwrap(), "--to", "/nonexistent/x"]);
    assert_eq!(gone.status.code(), Some(10));
    assert_eq!(bench.json(&["log", "s"]).as_array().unwrap().len(), 1);
    assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
}

#[test]
fn a_lone_store_makes_its_own_key_which_nobody_else_can_read() {
    let bench = Bench::new();
    bench.push("s", &[("ram", &bench.write("ram", b"hello"))]);
    let mode = fs::metadata(bench.store().join("keys/s")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_flipped_byte_in_any_file_gives_the_right_bytes_or_an_error_and_never_wrong_ones() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(5, 200_000));
    bench.push("s", &[("ram", &path)]);
    patch(&path, 70_000, b"changed");
    bench.push("s", &[("ram", &path)]);
    let right = fs::read(&path).unwrap();
    for file in files_below(&bench.store()) {
        let bytes = fs::read(&file).unwrap();
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            patch(&file, at as u64, &[bytes[at] ^ 0x40]);
            let out = bench.path("out");
            let output = bench.run(&["gather", "s@latest", "--to", out.to_str().unwrap()]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => {
                    assert!(
                        fs::read(out.join("ram")).unwrap() == right,
                        "wrong after a flip in {}",
                        file.display()
                    );
                }
                Some(10 | 13) => {}
                code => panic!("{code:?} after a flip in {} at {at}: {said}", file.display()),
            }
            assert!(!said.contains("panicked"), "{said}");
            let _ = fs::remove_dir_all(&out);
            fs::write(&file, &bytes).unwrap();
        }
    }
}

#[test]
fn a_killed_push_leaves_a_store_that_opens_verifies_and_takes_the_next_push() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 1 << 20));
    bench.push("s", &[("ram", &path)]);
    let big = bench.write("big", &noise(2, 48 << 20));
    for delay_ms in [5, 20, 45, 80, 130, 200, 300] {
        let mut push = snapctl()
            .arg("--store")
            .arg(bench.store())
            .args(["push", "s", "--region", &format!("ram={}", big.display())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Any moment will do: what is checked must hold after each.
        std::thread::sleep(Duration::from_millis(delay_ms));
        let _ = push.kill();
        push.wait().unwrap();
        assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0, "{delay_ms} ms");
        assert!(!bench.json(&["log", "s"]).as_array().unwrap().is_empty());
    }
    bench.push("s", &[("ram", &path)]);
    let out = bench.gather("s@latest", "out");
    assert_eq!(fs::read(out.join("ram")).unwrap(), fs::read(&path).unwrap());
}

/// A rebase once promoted a snapshot whose pack was damaged, and dropped the good ones before it.
#[test]
fn a_rebase_onto_a_damaged_snapshot_is_refused_and_drops_nothing() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 400_000));
    let first = bench.push("s", &[("ram", &path)]);
    let before = fs::read(&path).unwrap();
    fs::write(&path, noise(2, 400_000)).unwrap();
    let second = bench.push("s", &[("ram", &path)]);
    patch(&pack_of(&bench, &second), 100_000, b"oops");
    let refused = bench.run(&["rebase", "s"]);
    assert_eq!(refused.status.code(), Some(13), "{}", String::from_utf8_lossy(&refused.stderr));
    let out = bench.gather(first["snapshot"].as_str().unwrap(), "out");
    assert_eq!(fs::read(out.join("ram")).unwrap(), before);
}

/// `@latest` once gave an older snapshot when a pack of the newest was missing, a rebase promoted it, and `log` said
/// nothing of the other.
#[test]
fn an_older_snapshot_is_never_taken_for_the_newest_when_a_file_of_that_is_missing() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 200_000));
    let older = bench.push("s", &[("ram", &path)]);
    let before = fs::read(&path).unwrap();
    fs::write(&path, noise(2, 200_000)).unwrap();
    let newest = bench.push("s", &[("ram", &path)]);
    fs::remove_file(pack_of(&bench, &newest)).unwrap();
    let out = bench.path("out");
    let output = bench.run(&["gather", "s@latest", "--to", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(13), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!out.join("ram").exists());
    let rebase = bench.run(&["rebase", "s"]);
    assert_eq!(rebase.status.code(), Some(13), "{}", String::from_utf8_lossy(&rebase.stderr));
    let log = bench.run(&["log", "s"]);
    let said = String::from_utf8_lossy(&log.stderr).into_owned();
    assert!(log.status.success() && said.contains("warning: 1 of 2 snapshots can't be read"), "{said}");
    let out = bench.gather(older["snapshot"].as_str().unwrap(), "older");
    assert_eq!(fs::read(out.join("ram")).unwrap(), before, "nothing is dropped");
}

#[test]
fn what_has_no_size_is_refused_and_a_pipe_is_not_waited_for() {
    let bench = Bench::new();
    let pipe = bench.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.to_str().unwrap(), "/dev/zero"] {
        let output = bench.run(&["push", "s", "--region", &format!("ram={path}")]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("neither a regular file nor a block device")
        );
    }
}

/// A store whose snapshots all lacked a file once said that there was none, and how to take the first one.
#[test]
fn snapshots_that_lack_a_file_are_damaged_and_not_absent() {
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 200_000));
    let first = bench.push("s", &[("ram", &path)]);
    patch(&path, 0, b"changed");
    bench.push("s", &[("ram", &path)]);
    fs::remove_file(pack_of(&bench, &first)).unwrap();
    for command in ["log", "rebase"] {
        let output = bench.run(&[command, "s"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(13), "{command}: {said}");
        assert!(said.contains("hint: `snapctl verify`"), "{command}: {said}");
    }
    let said = String::from_utf8_lossy(&bench.run(&["log", "s"]).stderr).into_owned();
    assert!(said.contains("2 snapshots of s can't be read"), "{said}");
}

/// A rebase that the user ended once said nothing at all. When the signal comes before the command listens, or after
/// it is done, there is nothing to say: so it is tried until one comes in between.
#[test]
fn an_interrupted_rebase_says_so_and_loses_nothing() {
    use rustix::process::{Pid, Signal, kill_process};
    let bench = Bench::new();
    let path = bench.write("ram", &noise(1, 16 << 20));
    let mut said = String::new();
    for (round, delay_ms) in
        [20_u64, 40, 60, 80, 100, 130, 160, 200, 250].into_iter().cycle().take(90).enumerate()
    {
        // So much that the rebase has half a base to write.
        patch(&path, 0, &noise(round as u64 + 2, 8 << 20));
        bench.push("s", &[("ram", &path)]);
        let mut rebase = snapctl();
        rebase.arg("--store").arg(bench.store()).args(["rebase", "s"]).stdout(Stdio::null());
        let process = rebase.stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let _ = kill_process(Pid::from_child(&process), Signal::INT);
        let output = process.wait_with_output().unwrap();
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(130) {
            break;
        }
    }
    assert!(said.contains("interrupted; nothing was lost"), "no signal came in time: {said}");
    assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
    let out = bench.gather("s@latest", "out");
    assert_eq!(fs::read(out.join("ram")).unwrap(), fs::read(&path).unwrap());
}
