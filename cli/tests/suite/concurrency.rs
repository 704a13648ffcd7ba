//! Many commands on one store at once, killed at random: nothing is lost, nothing is wrong, nobody waits for another's
//! whole run.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::process::{Child, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::mounting::Mounted;
use crate::support::{Bench, noise, patch, snapctl};

const RAM_BYTES: usize = 2 << 20;

/// How long commands run: longer in `make soak-concurrency`.
fn duration() -> Duration {
    let seconds = std::env::var("SUSTAIN_CONCURRENCY_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What was pushed of a service, in this order.
#[derive(Default)]
struct Pushed {
    /// All that was tried: by which thread, and a hash of the bytes.
    tried: Vec<(u64, u64)>,
    /// Of each thread's, the last one that is known to be stored; and how many are.
    told: BTreeMap<u64, usize>,
    count: u64,
}

/// The work of all threads.
struct Work {
    bench: Bench,
    until: Instant,
    pushed: Mutex<BTreeMap<String, Pushed>>,
    kills: AtomicU64,
}

impl Work {
    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = snapctl();
        command.arg("--store").arg(self.bench.store()).arg("--json").args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command, and kills every fifth at some moment. None: it was killed.
    fn run(&self, seed: u64, arguments: &[&str]) -> Option<Output> {
        let mut process = self.spawn(arguments);
        let random = u64::from_le_bytes(noise(seed, 8).try_into().unwrap());
        if random % 5 == 0 {
            std::thread::sleep(Duration::from_micros((random >> 8) % 150_000));
            if process.try_wait().unwrap().is_none() {
                process.kill().unwrap();
                self.kills.fetch_add(1, Ordering::Relaxed);
            }
        }
        let output = process.wait_with_output().unwrap();
        output.status.code().map(|_| output)
    }

    /// Whether the command did what it was to do, or what else it may say.
    fn expect(&self, output: &Output, may: &[i32], what: &str) -> bool {
        let code = output.status.code().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(code == 0 || may.contains(&code), "{what}: {code}: {said}");
        code == 0
    }

    /// Goes on until the time is up, and until it was done twice.
    fn repeat(&self, thread: u64, mut work: impl FnMut(u64) -> bool) {
        let mut done = 0;
        for round in 0.. {
            if Instant::now() >= self.until && done >= 2 {
                return;
            }
            assert!(round < 100_000, "nothing gets done");
            done += u32::from(work(thread * 1_000_000 + round));
        }
    }

    /// Whether these bytes are a state of the service that was pushed, or was to be.
    fn check(&self, service: &str, bytes: &[u8], what: &str) {
        let pushed = self.pushed.lock().unwrap();
        let hashed = hash(bytes);
        assert!(
            pushed[service].tried.iter().any(|(_, tried)| *tried == hashed),
            "{what}: wrong bytes of {service}"
        );
    }

    /// One service's states, one after the other.
    fn push(&self, service: &str, thread: u64) {
        let ram = self.bench.write(&format!("ram-{thread}"), &noise(thread + 1, RAM_BYTES));
        let region = format!("ram={}", ram.display());
        self.repeat(thread, |seed| {
            patch(&ram, (seed % 31) << 16, &noise(seed + 7, 70_000));
            let hashed = hash(&fs::read(&ram).unwrap());
            let number = {
                let mut pushed = self.pushed.lock().unwrap();
                let tried = &mut pushed.get_mut(service).unwrap().tried;
                tried.push((thread, hashed));
                tried.len()
            };
            let Some(output) = self.run(seed, &["push", service, "--region", &region]) else { return false };
            let done = self.expect(&output, &[11], "push");
            if done {
                let mut pushed = self.pushed.lock().unwrap();
                let pushed = pushed.get_mut(service).unwrap();
                pushed.told.insert(thread, number);
                pushed.count += 1;
            }
            done
        });
    }

    fn gather(&self, thread: u64) {
        self.repeat(thread, |seed| {
            let service = format!("s{}", seed % 3);
            let folder = self.bench.path(&format!("out-{thread}"));
            let to = folder.to_str().unwrap();
            let Some(output) = self.run(seed, &["gather", &format!("{service}@latest"), "--to", to]) else {
                return false;
            };
            // There may be none yet, or what was the latest was rebased in the moment in which it was asked for.
            let done = self.expect(&output, &[10], "gather");
            if done {
                self.check(&service, &fs::read(folder.join("ram")).unwrap(), "gather");
            }
            done
        });
    }

    fn cat(&self, thread: u64) {
        self.repeat(thread, |seed| {
            let service = format!("s{}", seed % 3);
            let arguments = ["cat", &format!("{service}@latest"), "ram"];
            let mut command = snapctl();
            let output = command.arg("--store").arg(self.bench.store()).args(arguments).output().unwrap();
            let done = self.expect(&output, &[10], "cat");
            if done {
                self.check(&service, &output.stdout, "cat");
            }
            done
        });
    }

    fn maintain(&self, thread: u64) {
        self.repeat(thread, |seed| {
            let service = format!("s{}", seed % 3);
            let latest = format!("{service}@latest");
            let arguments: &[&str] = match seed % 6 {
                0 | 1 => &["rebase", &service],
                2 => &["gc", "--keep-last", "2"],
                3 => &["pin", &latest, "--name", "p"],
                4 => &["unpin", "p"],
                _ => &["log", &service],
            };
            let Some(output) = self.run(seed, arguments) else { return false };
            // A pin of this name may be there or not, since the last one may have been killed.
            self.expect(&output, &[2, 10, 11], arguments[0])
        });
    }

    fn verify(&self, thread: u64) {
        self.repeat(thread, |seed| {
            let Some(output) = self.run(seed, &["verify"]) else { return false };
            let done = self.expect(&output, &[], "verify");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["bad"].as_array().unwrap().len(), 0, "{report}");
            done
        });
    }

    /// Reads through a mount that is there all the time.
    fn read_mounted(&self, mounted: &Mounted, thread: u64) {
        self.repeat(thread, |seed| {
            let service = format!("s{}", seed % 3);
            match fs::read(mounted.point.join(&service).join("latest/ram")) {
                Ok(bytes) => {
                    self.check(&service, &bytes, "mount");
                    true
                }
                Err(error) => {
                    // The link is followed in the moment in which a rebase replaces what it leads to.
                    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
                    false
                }
            }
        });
    }
}

#[test]
fn commands_at_once_of_which_some_are_killed_lose_nothing_and_get_nothing_wrong() {
    let bench = Bench::new();
    let names = ["s0", "s1", "s2"];
    let mut pushed: BTreeMap<String, Pushed> = BTreeMap::new();
    for name in names {
        let ram = bench.write("first", &noise(99, RAM_BYTES));
        bench.push(name, &[("ram", &ram)]);
        let tried = vec![(u64::MAX, hash(&fs::read(&ram).unwrap()))];
        pushed.insert(name.to_owned(), Pushed { tried, told: BTreeMap::new(), count: 1 });
    }
    let mounted = Mounted::start(&bench, &[]);
    let until = Instant::now() + duration();
    let work = Work { bench, until, pushed: Mutex::new(pushed), kills: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        // The last service is pushed by two.
        for (thread, service) in ["s0", "s1", "s2", "s2"].into_iter().enumerate() {
            let work = &work;
            scope.spawn(move || work.push(service, thread as u64));
        }
        scope.spawn(|| work.gather(4));
        scope.spawn(|| work.maintain(5));
        scope.spawn(|| work.verify(6));
        scope.spawn(|| work.cat(7));
        if let Some(mounted) = &mounted {
            scope.spawn(|| work.read_mounted(mounted, 8));
        }
    });
    drop(mounted);
    let Work { bench, pushed, kills, .. } = work;
    assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
    for (service, pushed) in pushed.into_inner().unwrap() {
        let found = fs::read(bench.gather(&format!("{service}@latest"), "found").join("ram")).unwrap();
        let number = pushed.tried.iter().rposition(|(_, tried)| *tried == hash(&found));
        let number = number.unwrap_or_else(|| panic!("{service}: wrong bytes"));
        // What another thread has pushed meanwhile may have come before it.
        let told = pushed.told.get(&pushed.tried[number].0).copied().unwrap_or(0);
        assert!(number + 1 >= told, "{service}: number {number} is the newest, {told} was stored");
        let log = bench.json(&["log", &service]);
        let seq = log.as_array().unwrap().last().unwrap()["seq"].as_u64().unwrap();
        assert!(
            seq >= pushed.count,
            "{service}: {} are stored, and the newest is number {seq}",
            pushed.count
        );
    }
    assert!(kills.into_inner() > 0, "nothing was killed");
    for folder in ["tmp", "processes"] {
        assert_eq!(fs::read_dir(bench.store().join(folder)).unwrap().count(), 0, "{folder}");
    }
    let gone = bench.json(&["gc", "--dry-run"]);
    assert_eq!(gone["unlisted"]["packs"], 0, "packs are left");
}

/// A command that stands still in the middle, as one does whose output nobody takes.
#[test]
fn nobody_waits_for_a_command_that_stands_still() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(1, 6 << 20));
    bench.push("s", &[("ram", &ram)]);
    let before = fs::read(&ram).unwrap();
    let mut cat = snapctl();
    cat.arg("--store").arg(bench.store()).args(["cat", "s@latest", "ram"]);
    let mut cat = cat.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1_000];
    cat.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    for round in 2..5_u64 {
        fs::write(&ram, noise(round, 6 << 20)).unwrap();
        bench.push("s", &[("ram", &ram)]);
        bench.json(&["rebase", "s"]);
    }
    bench.json(&["gc"]);
    assert_eq!(bench.json(&["log", "s"]).as_array().unwrap().len(), 1);
    assert_eq!(bench.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
    assert!(cat.try_wait().unwrap().is_none(), "it stands still");
    let mut read = first.to_vec();
    cat.stdout.take().unwrap().read_to_end(&mut read).unwrap();
    assert!(cat.wait().unwrap().success() && read == before);
    // What it needed went with it.
    assert_eq!(bench.json(&["gc", "--dry-run"])["unlisted"]["packs"], 0);
}

#[test]
fn who_was_stopped_in_the_middle_of_a_commit_is_named() {
    let bench = Bench::new();
    bench.push("s", &[("ram", &bench.write("ram", b"hello"))]);
    let store = fs::File::open(bench.store()).unwrap();
    flock(&store, FlockOperation::LockExclusive).unwrap();
    let output = bench.run(&["log", "s"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(11), "{said}");
    let own = std::process::id();
    assert!(
        said.contains(&format!("process {own}")) && said.contains(&format!("kill -CONT {own}")),
        "{said}"
    );
    drop(store);
    bench.json(&["log", "s"]);
}

#[test]
fn a_running_node_s_store_is_looked_into() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(3, 1 << 20));
    let region = format!("ram={}", ram.display());
    let cluster = Cluster::start(1, &[]);
    let push = || cluster.wait("a push", || cluster.at(0, &["push", "files", "--region", &region]));
    push();
    for _ in 0..2 {
        let mut cat = snapctl();
        cat.args(["cat", "files@latest", "ram", "--config"]).arg(cluster.config(0));
        let output = cat.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == fs::read(&ram).unwrap());
        patch(&ram, 70_000, b"changed");
        push();
    }
    let verified = cluster.at(0, &["verify"]).unwrap();
    assert_eq!(verified["bad"].as_array().unwrap().len(), 0);
}
