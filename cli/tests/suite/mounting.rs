//! `mount` as a process: how it begins, and every way in which it ends. Needs /dev/fuse and the right to mount.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Bench, noise, snapctl};

/// A process that has a store mounted; it is ended with the test.
pub(crate) struct Mounted {
    process: Child,
    pub(crate) point: PathBuf,
    event: Value,
}

impl Mounted {
    /// Mounts; none, and a word about it, where this machine can't.
    pub(crate) fn start(bench: &Bench, options: &[&str]) -> Option<Self> {
        let point = bench.path("mount");
        // It is there already where a mount was killed, and can't be looked at then.
        let _ = fs::create_dir(&point);
        let mut command = snapctl();
        command.arg("--store").arg(bench.store()).args(["--json", "mount"]).arg(&point).args(options);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["event"] != "mounted" {
            let said = event["error"].as_str().unwrap_or(&line).to_owned();
            process.wait().unwrap();
            let lacks_rights = ["/dev/fuse", "fusermount"].iter().any(|word| said.contains(word));
            assert!(lacks_rights, "{said}");
            skip(&said);
            return None;
        }
        Some(Self { process, point, event })
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Its exit code and what it said, once it has ended.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // A test that failed leaves no mount behind.
        wait_for(&self.point, "the watcher takes it away", |point| !is_mount_point(point));
    }
}

#[expect(clippy::print_stdout, reason = "nothing is skipped silently")]
fn skip(reason: &str) {
    println!("skipped: {reason}");
}

fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

fn wait_for(path: &Path, what: &str, holds: impl Fn(&Path) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds(path) {
        if Instant::now() > deadline {
            assert!(std::thread::panicking(), "waited in vain: {what}");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.push("s", &[("ram", &bench.write("ram", &noise(1, 300_000)))]);
    bench
}

#[test]
fn both_signals_unmount_and_say_so() {
    let bench = bench();
    for signal in [Signal::INT, Signal::TERM] {
        let Some(mounted) = Mounted::start(&bench, &[]) else { return };
        let point = mounted.point.clone();
        assert_eq!(mounted.event["path"], point.to_str().unwrap());
        assert!(fs::read(point.join("s/latest/ram")).unwrap() == noise(1, 300_000));
        mounted.signal(signal);
        let (code, said) = mounted.end();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said, format!("unmounted {}\n", point.display()));
        assert!(!is_mount_point(&point) && fs::read_dir(&point).unwrap().next().is_none());
    }
}

#[test]
fn a_killed_mount_is_taken_away_by_its_watcher() {
    let bench = bench();
    let Some(mounted) = Mounted::start(&bench, &[]) else { return };
    let point = mounted.point.clone();
    mounted.signal(Signal::KILL);
    mounted.end();
    wait_for(&point, "the watcher takes it away", |point| !is_mount_point(point));
    assert!(fs::read_dir(&point).unwrap().next().is_none());
}

/// Watchers can be killed, too.
#[test]
fn a_killed_mount_without_its_watcher_hangs_nobody_and_the_next_one_works() {
    let bench = bench();
    let Some(mounted) = Mounted::start(&bench, &[]) else { return };
    let point = mounted.point.clone();
    let watchers: Vec<u32> = crate::support::processes_with("sustain-mount-watcher")
        .into_iter()
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(point.to_str().unwrap())
        })
        .collect();
    assert_eq!(watchers.len(), 1);
    kill_process(Pid::from_raw(watchers[0] as i32).unwrap(), Signal::KILL).unwrap();
    // It is a child of the mount, and ends there.
    mounted.signal(Signal::KILL);
    let mut mounted = mounted;
    mounted.process.wait().unwrap();
    let error = fs::metadata(&point).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::NOTCONN.raw_os_error()),
        "an error, and at once"
    );
    let next = Mounted::start(&bench, &[]).unwrap();
    assert!(fs::read(point.join("s/latest/ram")).unwrap() == noise(1, 300_000));
    next.signal(Signal::INT);
    let (code, said) = next.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("taking away a mount whose process was killed"), "{said}");
}

#[test]
fn what_is_read_from_damaged_data_is_an_error_and_the_log_says_which() {
    let bench = bench();
    let pack = crate::support::files_below(&bench.store().join("packs")).remove(0);
    let bytes = fs::read(&pack).unwrap();
    crate::support::patch(&pack, 150_000, &[bytes[150_000] ^ 1]);
    let Some(mounted) = Mounted::start(&bench, &[]) else { return };
    assert!(fs::read(mounted.point.join("s/latest/ram")).is_err());
    assert!(fs::read(mounted.point.join("s/latest/ram")).is_err());
    mounted.signal(Signal::INT);
    let (_, said) = mounted.end();
    let told = said.lines().filter(|line| line.contains("damaged") && line.contains("region ram")).count();
    assert_eq!(told, 1, "{said}");
}

#[test]
fn a_folder_that_can_not_be_mounted_on_is_refused_with_a_hint() {
    let bench = bench();
    let full = bench.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), b"x").unwrap();
    for (path, reason, hint) in [
        (bench.path("absent"), "is no folder", "hint: make an empty folder first"),
        (full.join("x"), "is no folder", "hint: make an empty folder first"),
        (full.clone(), "is not empty", "hint: name an empty folder"),
    ] {
        let store = bench.store();
        let arguments = ["--store", store.to_str().unwrap(), "mount", path.to_str().unwrap()];
        let said = crate::usage::fails(&arguments, 2);
        assert!(said.contains(reason) && said.contains(hint), "{said}");
    }
}

#[test]
fn all_users_may_read_only_if_they_are_let() {
    use std::os::unix::fs::PermissionsExt;
    let bench = bench();
    for (options, mode) in [(&[][..], 0o400), (&["--allow-other"], 0o444)] {
        let Some(mounted) = Mounted::start(&bench, options) else { return };
        let found = fs::metadata(mounted.point.join("s/latest/ram")).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode);
        mounted.signal(Signal::INT);
        assert_eq!(mounted.end().0, Some(0));
    }
}

/// It was refused, and its look at the folder let the kernel answer for the first mount a second longer: the watcher
/// took that for life, and the folder stayed broken.
#[test]
fn a_second_mount_of_the_folder_is_refused_and_the_first_is_taken_away_when_it_is_killed() {
    let bench = bench();
    let Some(mounted) = Mounted::start(&bench, &[]) else { return };
    let point = mounted.point.clone();
    let store = bench.store();
    let again = ["--store", store.to_str().unwrap(), "mount", point.to_str().unwrap()];
    assert!(crate::usage::fails(&again, 11).contains("is mounted on"));
    mounted.signal(Signal::KILL);
    mounted.end();
    wait_for(&point, "the watcher takes it away", |point| !is_mount_point(point));
}
