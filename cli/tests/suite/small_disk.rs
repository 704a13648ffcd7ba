//! A disk that is full, and one that is read-only: a real file system of a few MiB, in a mount namespace of its own
//! that goes with the process that holds it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Bench, noise, patch};

/// A small file system that nobody else sees.
struct SmallDisk {
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// None, and the reason is printed, where mounting is not possible.
    fn mount(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let script =
            format!("mount -t tmpfs -o size={size} small \"$1\" && echo ready && exec cat > /dev/null");
        let mut holder = Command::new("unshare");
        holder.args(["-m", "sh", "-c", &script, "sh"]).arg(folder);
        holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut holder) = holder.spawn() else { return skipped("there is no `unshare`") };
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let disk = Self { holder, folder: folder.to_owned() };
        if line == "ready\n" { Some(disk) } else { skipped("mounting needs root") }
    }

    /// A command that sees the file system.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.holder.id().to_string(), program]);
        command.env_remove("SUSTAIN_CONFIG").env("HOME", "/nonexistent").env("SUSTAIN_LOG", "warn");
        command
    }

    fn sh(&self, script: &str) {
        let status = self.command("sh").args(["-c", script, "sh"]).arg(&self.folder).status().unwrap();
        assert!(status.success(), "{script}");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_snapctl"));
        command.arg("--store").arg(self.folder.join("store")).arg("--json").args(arguments);
        command.output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that must fail with exit code 1; returns what it said.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("\nhint: "), "{arguments:?}: {said}");
        said
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The namespace, and the mount in it, go with the process.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[expect(clippy::print_stderr, reason = "a test that does nothing says so")]
fn skipped<T>(reason: &str) -> Option<T> {
    eprintln!("skipped: {reason}");
    None
}

#[test]
fn a_full_disk_is_said_and_the_next_push_works_when_there_is_room() {
    let bench = Bench::new();
    let Some(disk) = SmallDisk::mount(&bench.path("small"), "12m") else { return };
    let ram = bench.write("ram", &noise(1, 3 << 20));
    let region = format!("ram={}", ram.display());
    let push = ["push", "s", "--region", &region];
    disk.json(&push);
    let before = fs::read(&ram).unwrap();
    // Room for a third of what comes next.
    let free = "$(df --output=avail -k \"$1\" | tail -n 1)";
    disk.sh(&format!("dd if=/dev/zero of=\"$1\"/filler bs=1k count=$(({free} - 1024)) 2> /dev/null"));
    patch(&ram, 0, &noise(2, 3 << 20));
    let said = disk.fails(&push);
    assert!(said.contains("No space left") && said.contains("free some space"), "{said}");
    let out = bench.path("out");
    let gather = ["gather", "s@latest", "--to", out.to_str().unwrap()];
    disk.json(&gather);
    assert!(fs::read(out.join("ram")).unwrap() == before, "the store is as it was");
    // A gather that finds no room leaves nothing either.
    let small = disk.folder.join("out");
    disk.fails(&["gather", "s@latest", "--to", small.to_str().unwrap()]);
    disk.sh("test -z \"$(ls -A \"$1\"/out)\"");
    disk.sh("rm \"$1\"/filler");
    assert_eq!(disk.json(&push)["seq"], 2);
    disk.json(&gather);
    assert!(fs::read(out.join("ram")).unwrap() == fs::read(&ram).unwrap());
    assert_eq!(disk.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
}

/// No command could open the store: there was no room to register a process.
#[test]
fn a_disk_without_any_room_is_read_and_collected_until_there_is_some() {
    let bench = Bench::new();
    let Some(disk) = SmallDisk::mount(&bench.path("small"), "12m,nr_inodes=400") else { return };
    let ram = bench.write("ram", &noise(1, 2 << 20));
    let region = format!("ram={}", ram.display());
    let push = ["push", "s", "--region", &region];
    let mut states = Vec::new();
    for step in 0..4 {
        patch(&ram, 0, &noise(step + 2, 1 << 20));
        disk.json(&push);
        states.push(fs::read(&ram).unwrap());
    }
    disk.json(&["pin", "s@-2", "--name", "keep"]);
    // No block and no inode is left.
    disk.sh("cat /dev/zero > \"$1\"/filler 2> /dev/null; n=0; while touch \"$1\"/$n 2> /dev/null; do n=$((n+1)); done");
    assert_eq!(disk.json(&["log", "s"]).as_array().unwrap().len(), 4);
    assert_eq!(disk.json(&["pins"]).as_array().unwrap().len(), 1);
    assert_eq!(disk.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
    let gathered = |selector: &str| {
        let out = bench.path(&format!("out-{selector}"));
        disk.json(&["gather", selector, "--to", out.to_str().unwrap()]);
        fs::read(out.join("ram")).unwrap()
    };
    assert!(gathered("s@latest") == states[3] && gathered("s@-3") == states[0]);
    patch(&ram, 0, &noise(9, 1 << 20));
    let said = disk.fails(&push);
    assert!(said.contains("No space left") && said.contains("free some space"), "{said}");
    disk.json(&["unpin", "keep"]);
    let collected = disk.json(&["gc", "s", "--keep-last", "1"]);
    assert_eq!(collected["services"][0]["goes"].as_array().unwrap().len(), 2, "{collected}");
    assert!(gathered("s@latest") == states[3]);
    assert_eq!(disk.json(&push)["seq"], 5);
    assert!(gathered("s@latest") == fs::read(&ram).unwrap());
    assert_eq!(disk.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
}

/// A store on a read-only file system once could not even be listed.
#[test]
fn a_read_only_store_can_be_read_and_says_why_it_takes_nothing() {
    let bench = Bench::new();
    let Some(disk) = SmallDisk::mount(&bench.path("small"), "12m") else { return };
    let ram = bench.write("ram", &noise(1, 2 << 20));
    let region = format!("ram={}", ram.display());
    let push = ["push", "s", "--region", &region];
    disk.json(&push);
    // What an interrupted push left would be swept.
    disk.sh("echo half > \"$1\"/store/tmp/pack-0011223344556677 && mount -o remount,ro \"$1\"");
    assert_eq!(disk.json(&["log", "s"]).as_array().unwrap().len(), 1);
    assert_eq!(disk.json(&["verify"])["bad"].as_array().unwrap().len(), 0);
    let out = bench.path("out");
    disk.json(&["gather", "s@latest", "--to", out.to_str().unwrap()]);
    assert!(fs::read(out.join("ram")).unwrap() == fs::read(&ram).unwrap());
    patch(&ram, 0, b"changed");
    let said = disk.fails(&push);
    assert!(
        said.contains("Read-only file system") && said.contains("mount the file system writable"),
        "{said}"
    );
    // Twice, so that there is something to drop.
    disk.sh("mount -o remount,rw \"$1\"");
    disk.json(&push);
    disk.sh("mount -o remount,ro \"$1\"");
    let said = disk.fails(&["rebase", "s"]);
    assert!(said.contains("Read-only file system"), "{said}");
    disk.sh("mount -o remount,rw \"$1\"");
    assert_eq!(disk.json(&push)["seq"], 3);
}
