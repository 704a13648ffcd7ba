//! `kill -9` at any moment of a command on a real disk: what was acknowledged is there, nothing is left behind.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Bench, noise, patch, snapctl};

/// A seeded delay, so that the moments differ and a run can be repeated.
fn delay(seed: u64, most_ms: u64) -> Duration {
    let random = u64::from_le_bytes(noise(seed, 8).try_into().unwrap());
    Duration::from_micros(random % (most_ms * 1_000))
}

/// Runs a command and kills it after a while. Whether it came to its end before.
fn killed(bench: &Bench, arguments: &[&str], after: Duration) -> bool {
    let mut command = snapctl();
    command.arg("--store").arg(bench.store()).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    // Any moment will do: what is checked must hold after each.
    std::thread::sleep(after);
    let _ = process.kill();
    process.wait().unwrap().success()
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// How many rounds: more in `make soak-crash`.
fn rounds() -> u64 {
    std::env::var("SUSTAIN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[test]
fn commands_killed_at_any_moment_lose_nothing_acknowledged() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(1, 6 << 20));
    bench.push("s", &[("ram", &ram)]);
    let mut newest = fs::read(&ram).unwrap();
    let region = format!("ram={}", ram.display());
    let out = bench.path("out");
    for round in 0..rounds() {
        patch(&ram, (round % 5) << 20, &noise(round + 2, 1 << 20));
        let pushed = fs::read(&ram).unwrap();
        if killed(&bench, &["push", "s", "--region", &region], delay(round * 4, 250)) {
            newest.clone_from(&pushed);
        }
        killed(&bench, &["rebase", "s"], delay(round * 4 + 1, 200));
        killed(&bench, &["gather", "s@latest", "--to", out.to_str().unwrap()], delay(round * 4 + 2, 150));
        killed(&bench, &["verify"], delay(round * 4 + 3, 100));
        assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0, "round {round}");
        let found = fs::read(bench.gather("s@latest", "found").join("ram")).unwrap();
        // A push that was killed may have been done before it could say so.
        assert!(found == newest || found == pushed, "round {round}: the newest is neither of the two");
        newest = found;
        assert_eq!(names(&bench.store().join("tmp")), Vec::<String>::new(), "round {round}");
    }
}

/// `kill -9` once left `.ram.PID.part` in the folder for good, of the size of the guest's memory.
#[test]
fn a_killed_gather_leaves_no_part_of_a_file() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(1, 24 << 20));
    bench.push("s", &[("ram", &ram)]);
    let out = bench.path("out");
    let arguments = ["gather", "s@latest", "--to", out.to_str().unwrap()];
    let mut early = 0;
    for round in 0..rounds() {
        let done = killed(&bench, &arguments, delay(round + 900, 200));
        early += u64::from(!done);
        for name in names(&out) {
            // Between its hidden name and its own a file is complete, and the next gather removes it.
            let whole = fs::read(out.join(&name)).unwrap() == fs::read(&ram).unwrap();
            assert!(whole, "round {round}: {name} is not whole");
        }
    }
    assert!(early > 0, "no kill came in time");
    bench.gather("s@latest", "out");
    assert_eq!(names(&out), ["ram"]);
}

/// Where files need a name while they are written (vfat, some network file systems), the next gather cleans up.
#[test]
fn what_a_dead_gather_left_is_removed_and_what_a_living_one_writes_is_not() {
    let bench = Bench::new();
    bench.push("s", &[("ram", &bench.write("ram", b"hello"))]);
    let out = bench.path("out");
    fs::create_dir(&out).unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let left = out.join(format!(".ram.{dead}.part"));
    fs::write(&left, b"half").unwrap();
    let living = out.join(format!(".ram.{}.part", std::process::id()));
    let busy = fs::File::create(&living).unwrap();
    rustix::fs::flock(busy.as_fd(), rustix::fs::FlockOperation::LockExclusive).unwrap();
    let other = out.join(".ram.notes.part");
    fs::write(&other, b"the user's").unwrap();
    bench.gather("s@latest", "out");
    assert!(!left.exists() && living.exists() && other.exists());
}
