//! The demo, as a new user runs it: twice at once, then interrupted; nothing is left behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{guest, processes_with, snapctl};

/// A demo whose folders are below `temporary`, so that leftovers can be told from those of others.
fn start_demo(temporary: &Path, service: &str) -> Child {
    snapctl()
        .args(["--json", "demo", "--snapshots", "3", "--service", service, "--guest"])
        .arg(guest())
        .env("TMPDIR", temporary)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn assert_nothing_is_left(temporary: &Path, service: &str) {
    // A killed QEMU is gone once its parent was; give the kernel a moment to reap it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with(&format!("sustain:{service}")).is_empty()
        || !processes_with(temporary.to_str().unwrap()).is_empty()
    {
        assert!(Instant::now() < deadline, "processes are left over");
        std::thread::sleep(Duration::from_millis(50));
    }
    let left: Vec<_> = std::fs::read_dir(temporary).unwrap().collect();
    assert!(left.is_empty(), "folders are left over: {left:?}");
}

#[test]
fn guest_two_demos_at_once_both_go_on_from_the_durable_snapshot_and_leave_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let demos = ["one", "two"].map(|service| start_demo(temporary.path(), service));
    for demo in demos {
        let output = demo.wait_with_output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}\n{printed}");
        let events: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let verdict = events.last().unwrap();
        assert_eq!(verdict["ok"], true, "{verdict}");
        assert_eq!(verdict["same_boot"], true, "{verdict}");
        let count = |key: &str| verdict[key].as_u64().unwrap();
        // The restored guest may count what reached it unanswered: see the demo's verdict.
        let counted = count("counter_after") - count("counter_durable");
        assert!((1..=3).contains(&counted), "{verdict}");
        assert!(count("counter_durable") > 0 && count("restored_seq") >= count("durable_seq"), "{verdict}");
        for key in ["detect_ms", "elect_ms", "gather_ms", "restore_ms", "outage_ms", "snapshots", "nodes"] {
            assert!(verdict[key].is_u64(), "{key} is missing: {verdict}");
        }
        assert!(events.iter().any(|event| event["event"] == "kill"), "{printed}");
    }
    assert_nothing_is_left(temporary.path(), "one");
    assert_nothing_is_left(temporary.path(), "two");
}

#[test]
fn guest_ctrl_c_ends_the_demo_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = start_demo(temporary.path(), "interrupted");
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    // Once a snapshot was taken, everything is there that could be left behind.
    let taken = lines.any(|line| line.unwrap().contains("\"event\":\"snapshot\""));
    assert!(taken, "the demo ended before its first snapshot");
    assert!(!processes_with("sustain:interrupted").is_empty(), "no QEMU carries the service's name");
    let pid = Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    // Reads on, lest the demo stops on a full pipe.
    for line in lines {
        line.unwrap();
    }
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_nothing_is_left(temporary.path(), "interrupted");
}
