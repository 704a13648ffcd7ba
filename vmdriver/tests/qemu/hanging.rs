//! A QEMU that hangs, dies at the worst moment, or is something else than a QEMU. Each wait has a bound, and
//! nothing is left behind. None of these waits for a guest to boot.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use sustain_proto::RegionName;
use sustain_store::RegionSource;
use sustain_vmdriver::{
    Accel, CheckError, ErrorKind, QemuDriver, SnapshotError, SnapshotScope, SnapshotSink, StartError, Vm,
    VmDriver, VmSpec, VmState, limits,
};

use crate::support::{MEMORY_BYTES, Regions, spec};

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

fn start(name: &str, folder: &Path) -> Box<dyn Vm> {
    QemuDriver::new().start(&spec(name), &folder.join(name)).unwrap()
}

/// Most time until a QEMU that stands still counts as hung: the command that finds out, letting the guest go
/// on, the question, and as much again for a busy machine.
fn patience() -> Duration {
    2 * (limits::QMP_COMMAND_TIMEOUT + 2 * limits::QMP_WATCH_TIMEOUT)
}

/// One test for both, so that their waits run side by side.
#[test]
fn a_qemu_that_hangs_is_given_up_and_one_that_only_stood_still_is_not() {
    let folder = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| hangs_while_nothing_is_asked(start("idle", folder.path())));
        scope.spawn(|| hangs_in_a_snapshot_and_recovers(start("snapshot", folder.path())));
    });
}

fn hangs_while_nothing_is_asked(mut vm: Box<dyn Vm>) {
    let pid = vm.pid();
    signal("STOP", pid);
    let started = Instant::now();
    let silent = loop {
        match vm.state() {
            VmState::Hung { silent } => break silent,
            VmState::Running => thread::sleep(Duration::from_millis(50)),
            other => panic!("{other:?}"),
        }
        assert!(started.elapsed() < patience(), "not seen for {:?}", started.elapsed());
    };
    println!("hung: seen after {:?}", started.elapsed());
    assert!(silent >= 2 * limits::QMP_WATCH_TIMEOUT, "given up after {silent:?} of silence");
    drop(vm);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

fn hangs_in_a_snapshot_and_recovers(mut vm: Box<dyn Vm>) {
    signal("STOP", vm.pid());
    let started = Instant::now();
    let error = vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap_err();
    println!("a snapshot of a QEMU that hangs: {error} after {:?}", started.elapsed());
    assert!(started.elapsed() < patience());
    assert!(matches!(error, SnapshotError::Qmp { .. } | SnapshotError::Resume { .. }), "{error}");
    signal("CONT", vm.pid());
    // It may stand still, but it is there: the next snapshot lets it go on.
    assert!(matches!(vm.state(), VmState::Running | VmState::Paused));
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    assert_eq!(regions.0["ram"].len() as u64, MEMORY_BYTES);
    assert_eq!(vm.state(), VmState::Running);
}

/// Kills QEMU when it is offered the first region.
struct Killing(u32);

impl SnapshotSink for Killing {
    fn region(
        &mut self,
        _name: &RegionName,
        _source: &dyn RegionSource,
        _changed: Option<&[Range<u64>]>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        signal("KILL", self.0);
        Ok(())
    }
}

#[test]
fn a_qemu_that_dies_in_a_snapshot_is_seen_as_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut vm = start("dies", folder.path());
    let mut sink = Killing(vm.pid());
    // Depending on when the region was offered, this snapshot was complete or not; the next can't be.
    let first = vm.snapshot(SnapshotScope::Whole, &mut sink);
    let error = first.err().unwrap_or_else(|| {
        vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).expect_err("QEMU is dead")
    });
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    assert!(matches!(vm.state(), VmState::Exited(report) if report.signal == Some(9)));
}

/// A program in the place of QEMU, which is QEMU but for what the script does first.
fn fake(folder: &Path, name: &str, script: &str) -> VmSpec {
    let path = folder.join(name);
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *sustain:*) ;; *) exec qemu-system-x86_64 \"$@\" ;; esac\n{script}\n\
         exec qemu-system-x86_64 \"$@\"\n"
    );
    // By another process: a file that is open for writing in one that forks meanwhile can't be run.
    let write = "printf %s \"$2\" > \"$1\" && chmod 755 \"$1\"";
    assert!(Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(text).status().unwrap().success());
    let mut spec = spec("fake");
    spec.accel = Accel::Tcg;
    spec.qemu = Some(path);
    spec
}

const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "#,
    r#""capabilities": []}}"#
);

#[test]
fn a_program_that_is_no_good_qemu_is_refused_in_its_words_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let pid_file = folder.path().join("pid");
    let note = format!("echo $$ > {}", pid_file.display());
    for (name, script, says) in [
        ("ends", "echo no such luck >&2; exit 3", "no such luck"),
        ("babbles", "echo '{\"event\": \"HELLO\"}'; exec sleep 600", "greeting"),
        ("floods", "exec head -c 100000000 /dev/zero", "QEMU"),
        ("greets", &format!("echo '{GREETING}'; read -r line <&1; exit 4"), "exit code 4"),
    ] {
        let spec = fake(folder.path(), name, &format!("{note}\n{script}"));
        let started = Instant::now();
        let error = QemuDriver::new().start(&spec, &run).err().expect("it is no QEMU");
        let said = sustain_store::error_chain(&error);
        println!("{name}: {said}");
        assert!(said.contains(says), "{name}: {said}");
        assert!(!matches!(error, StartError::Check(_)), "{name}: {said}");
        assert!(started.elapsed() < limits::QEMU_START_TIMEOUT, "{name}");
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "{name} is left behind");
        let left: Vec<PathBuf> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [run.join("console.log")]);
    }
}

#[test]
fn a_qemu_that_dies_in_a_restore_is_seen_as_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut vm = start("saved", folder.path());
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    vm.stop().unwrap();
    let script =
        format!("case \"$*\" in *-incoming*) echo '{GREETING}'; read -r line <&1; kill -KILL $$ ;; esac");
    let mut dying = fake(folder.path(), "dying", &script);
    dying.service = spec("saved").service;
    let prepared = QemuDriver::new().prepare(&dying, &folder.path().join("run")).unwrap();
    regions.restore(prepared.target()).unwrap();
    let error = prepared.resume().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    // The snapshot is as good as before.
    let mut good = spec("saved");
    good.accel = Accel::Tcg;
    let prepared = QemuDriver::new().prepare(&good, &folder.path().join("run")).unwrap();
    regions.restore(prepared.target()).unwrap();
    assert_eq!(prepared.resume().unwrap().state(), VmState::Running);
}

#[test]
fn demanded_kvm_is_there_or_refused_and_too_little_memory_is_found_before_anything_starts() {
    let driver = QemuDriver::new();
    let mut kvm = spec("kvm");
    kvm.accel = Accel::Kvm;
    match driver.check(&kvm) {
        Ok(report) => println!("skipped: KVM works here ({report:?}), so it can't be missing"),
        Err(error) => assert!(matches!(error, CheckError::NoKvm), "{error}"),
    }
    let folder = tempfile::tempdir().unwrap();
    let mut large = spec("large");
    large.memory_bytes = 1 << 43;
    let refused = [driver.start(&large, folder.path()).err(), driver.prepare(&large, folder.path()).err()];
    for error in refused {
        assert_eq!(error.unwrap().kind(), ErrorKind::NoMemory);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
