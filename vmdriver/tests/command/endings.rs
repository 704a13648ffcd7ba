//! Programs that fail, hang or leave things behind, services that die, and nodes that are killed.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sustain_vmdriver::{CommandDriver, ErrorKind, SnapshotScope, Vm, VmDriver, VmState};

use crate::support::{Bench, Regions, ask, is_there, spec, wait_until};

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    sustain_store::error_chain(error)
}

fn snapshot_failure(vm: &mut dyn Vm) -> String {
    chain(&vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap_err())
}

#[test]
fn a_service_goes_on_after_a_snapshot_that_fails_or_hangs_in_the_pause() {
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    ask(&*vm, "/count");
    bench.replace(
        "snapshot",
        "kill -STOP $SUSTAIN_PID; echo half > $SUSTAIN_SNAPSHOT/state; echo disk full >&2; exit 1",
    );
    let said = snapshot_failure(&mut *vm);
    assert!(said.contains("snapshot failed: exit code 1; it said: disk full"), "{said}");
    assert_eq!(ask(&*vm, "/count").0, 2, "it was left standing");
    assert_eq!(fs::read_dir(bench.path("run/snapshot")).unwrap().count(), 0, "a half is no beginning");

    bench.replace("snapshot", "kill -STOP $SUSTAIN_PID; sleep 600");
    let started = Instant::now();
    let said = snapshot_failure(&mut *vm);
    assert!(said.contains("it was not done after 2 s"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(ask(&*vm, "/count").0, 3);
}

#[test]
fn what_is_no_region_is_refused() {
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    for (script, says) in [
        ("ln -s /etc/passwd $SUSTAIN_SNAPSHOT/state", "is no region"),
        ("rm -f $SUSTAIN_SNAPSHOT/*", "left 0 files"),
        (": > $SUSTAIN_SNAPSHOT/State", "is not allowed"),
    ] {
        bench.replace("snapshot", script);
        let said = snapshot_failure(&mut *vm);
        assert!(said.contains(says), "{script}: {said}");
    }
    assert_eq!(vm.state(), VmState::Running);
}

/// The end of a service was seen only when its snapshot ran into its time limit, and so was the node's own.
#[test]
fn a_snapshot_that_hangs_holds_up_neither_the_end_of_its_service_nor_that_of_the_node() {
    struct Unwanted;
    impl sustain_vmdriver::SnapshotSink for Unwanted {
        fn region(
            &mut self,
            _: &sustain_proto::RegionName,
            _: &dyn sustain_store::RegionSource,
            _: Option<&[std::ops::Range<u64>]>,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(())
        }

        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.snapshot_timeout = Duration::from_secs(600);
    let mut vm = CommandDriver::new(settings).start(&spec(), &bench.path("run")).unwrap();
    bench.replace("snapshot", "kill -STOP $SUSTAIN_PID; sleep 600");
    let began = Instant::now();
    let said = chain(&vm.snapshot(SnapshotScope::Whole, &mut Unwanted).unwrap_err());
    assert!(said.contains("the service is to end"), "{said}");
    assert_eq!(ask(&*vm, "/count").0, 1, "it was let go on");
    bench.replace("snapshot", "kill -KILL $SUSTAIN_PID; sleep 600");
    let error = vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{}", chain(&error));
    assert!(began.elapsed() < Duration::from_secs(300));
}

/// A link in its place was followed out of the folder; a folder that was gone failed every snapshot from then on.
#[test]
fn a_snapshot_folder_that_is_a_link_is_refused_and_one_that_is_gone_is_made_anew() {
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    let good = fs::read_to_string(bench.path("programs/snapshot")).unwrap();
    let good = good.strip_prefix("#!/bin/sh\n").unwrap();
    fs::create_dir(bench.path("elsewhere")).unwrap();
    fs::write(bench.path("elsewhere/state"), "somebody's own").unwrap();
    let link =
        format!("rm -rf $SUSTAIN_SNAPSHOT; ln -s {} $SUSTAIN_SNAPSHOT", bench.path("elsewhere").display());
    for script in [link.as_str(), "rm -rf $SUSTAIN_SNAPSHOT"] {
        bench.replace("snapshot", script);
        let said = snapshot_failure(&mut *vm);
        assert!(said.contains("can't read") && said.contains("run/snapshot"), "{said}");
        bench.replace("snapshot", good);
        vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap();
    }
    assert_eq!(fs::read_to_string(bench.path("elsewhere/state")).unwrap(), "somebody's own");
}

/// The files of the call before were taken for the new snapshot.
#[test]
fn a_snapshot_that_writes_nothing_has_failed() {
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    bench.replace("snapshot", "echo state > $SUSTAIN_SNAPSHOT/state");
    for _ in 0..3 {
        vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap();
    }
    bench.replace("snapshot", "exit 0");
    let said = snapshot_failure(&mut *vm);
    assert!(said.contains("wrote to no file"), "{said}");
    bench.replace("snapshot", "touch $SUSTAIN_SNAPSHOT/state");
    for _ in 0..3 {
        vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap();
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_is_no_snapshot() {
    struct Growing(std::path::PathBuf);
    impl sustain_vmdriver::SnapshotSink for Growing {
        fn region(
            &mut self,
            _: &sustain_proto::RegionName,
            _: &dyn sustain_store::RegionSource,
            _: Option<&[std::ops::Range<u64>]>,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(fs::write(&self.0, "more than there was")?)
        }
    }
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    bench.replace("snapshot", "echo state > $SUSTAIN_SNAPSHOT/state");
    let mut sink = Growing(bench.path("run/snapshot/state"));
    let said = chain(&vm.snapshot(SnapshotScope::Whole, &mut sink).unwrap_err());
    assert!(said.contains("changed while it was read"), "{said}");
}

#[test]
fn starts_that_cannot_work_say_why_and_leave_nothing() {
    let start = |bench: &Bench| bench.driver().start(&spec(), &bench.path("run")).err().unwrap();
    let bench = Bench::new();
    bench.replace("start", "echo no database >&2; exit 4");
    let error = start(&bench);
    assert_eq!(error.kind(), ErrorKind::Gone);
    assert!(chain(&error).contains("exit code 4; it said: no database"), "{}", chain(&error));

    let bench = Bench::new();
    bench.replace("start", "echo $$ > $SUSTAIN_RUN/pid; exec sleep 600");
    let error = start(&bench);
    assert!(chain(&error).contains("not alive after 5 s"), "{}", chain(&error));
    let pid = fs::read_to_string(bench.path("run/pid")).unwrap().trim().parse().unwrap();
    assert!(!is_there(pid));

    bench.remove("restore");
    let error = bench.driver().check(&spec()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(chain(&error).contains("programs/restore"), "{}", chain(&error));
    let bench = Bench::new();
    bench.replace("check", "echo the license has run out >&2; exit 1");
    assert!(chain(&bench.driver().check(&spec()).unwrap_err()).contains("license has run out"));
}

#[test]
fn a_service_that_dies_or_hangs_is_seen() {
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    let killed = Command::new("kill").args(["-KILL", &vm.pid().to_string()]).status().unwrap();
    assert!(killed.success());
    wait_until(
        "the end is seen",
        || matches!(vm.state(), VmState::Exited(report) if report.signal == Some(9)),
    );
    let error = vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
    vm.stop().unwrap();

    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    let pid = vm.pid();
    bench.replace("alive", "exit 1");
    wait_until("the silence is seen", || matches!(vm.state(), VmState::Hung { .. }));
    drop(vm);
    assert!(!is_there(pid));
}

#[test]
fn a_service_that_ignores_its_stop_ends_all_the_same() {
    let bench = Bench::new();
    bench.replace("start", "trap '' TERM; while :; do sleep 0.1; done");
    bench.remove("alive");
    bench.replace("stop", "exit 1");
    let vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    let pid = vm.pid();
    vm.stop().unwrap();
    assert!(!is_there(pid));
}

/// Set for the process that the node's death is tried on, to the folder that it works in.
const NODE_FOLDER: &str = "SUSTAIN_TEST_NODE_FOLDER";

/// Not a test of its own: the process that the next one starts and kills.
#[test]
fn node_that_will_be_killed() {
    let Some(folder) = env::var_os(NODE_FOLDER) else { return };
    let folder = Path::new(&folder);
    let bench = Bench::new();
    // A service of several processes, of which only the first is this process's child.
    bench.replace("start", "sleep 600 & echo $! > $SUSTAIN_RUN/child; wait");
    bench.remove("alive");
    let vm = bench.driver().start(&spec(), &folder.join("run")).unwrap();
    wait_until("the child", || {
        fs::read_to_string(folder.join("run/child")).is_ok_and(|text| text.ends_with('\n'))
    });
    // In the midst of a snapshot: some of its processes stand still.
    let stopped = Command::new("kill").args(["-STOP", "--", &format!("-{}", vm.pid())]).status().unwrap();
    assert!(stopped.success());
    fs::write(folder.join("pid.new"), vm.pid().to_string()).unwrap();
    fs::rename(folder.join("pid.new"), folder.join("pid")).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_node_that_is_killed_takes_all_processes_of_its_service_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Command::new(env::current_exe().unwrap())
        .args(["--exact", "endings::node_that_will_be_killed"])
        .env(NODE_FOLDER, folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the service's start", || {
        assert!(node.try_wait().unwrap().is_none(), "the node ended before its service was up");
        folder.path().join("pid").exists()
    });
    let read =
        |name: &str| fs::read_to_string(folder.path().join(name)).unwrap().trim().parse::<u32>().unwrap();
    let (pid, child) = (read("pid"), read("run/child"));
    assert!(is_there(pid) && is_there(child));
    node.kill().unwrap();
    node.wait().unwrap();
    wait_until("the service's end", || !is_there(pid) && !is_there(child));
}

/// After the node's end, and for ever on a node whose turn did not come again, the state lay in its folder.
#[test]
fn the_state_goes_with_the_service_and_logs_stay() {
    let bench = Bench::new();
    let run = bench.path("run");
    let state = |run: &std::path::Path| ["state", "snapshot"].map(|name| run.join(name).exists());
    let mut vm = bench.driver().start(&spec(), &run).unwrap();
    vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap();
    assert_eq!(state(&run), [true, true]);
    vm.stop().unwrap();
    assert_eq!(state(&run), [false, false]);
    assert!(run.join("start.log").exists());
    // Dropped, as when its node gives it up.
    drop(bench.driver().start(&spec(), &run).unwrap());
    assert_eq!(state(&run), [false, false]);
    // What a killed node leaves.
    std::fs::create_dir_all(run.join("state")).unwrap();
    std::fs::write(run.join("state/secret"), "of the service").unwrap();
    sustain_vmdriver::remove_left_behind(&run).unwrap();
    assert_eq!(state(&run), [false, false]);
    assert!(run.join("start.log").exists());
}
