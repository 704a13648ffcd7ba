//! What a sink is handed before and after the pause is, put together, the memory of the pause: compared with a copy of
//! all memory that is made in the pause itself, for both ways of finding out what the guest wrote.

use std::env;
use std::error::Error;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{MEMORY_BYTES, Regions, ask, set_load, spec, wait_for_boot};
use sustain_proto::RegionName;
use sustain_store::RegionSource;
use sustain_vmdriver::{
    QemuDriver, SnapshotError, SnapshotScope, SnapshotSink, SnapshotTimings, TrackingReport, Vm, VmDriver,
    VmSpec,
};

/// Snapshots of each run; `SUSTAIN_SOAK_SNAPSHOTS` asks for more.
const SNAPSHOTS: usize = 24;

/// Set for the process that runs as an ordinary user.
const ORDINARY: &str = "SUSTAIN_TEST_ORDINARY_USER";

/// The id that Debian keeps for nobody.
const NOBODY: u32 = 65_534;

fn snapshots() -> usize {
    env::var("SUSTAIN_SOAK_SNAPSHOTS").map_or(SNAPSHOTS, |number| number.parse().unwrap())
}

/// What a store would have, and a fault to come.
#[derive(Default)]
struct Assembled {
    regions: Regions,
    /// Calls until the sink fails; none if it does not.
    fails_after: Option<u32>,
    bytes: u64,
}

impl SnapshotSink for Assembled {
    fn region(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: Option<&[Range<u64>]>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        match &mut self.fails_after {
            Some(0) => return Err("the disk is full".into()),
            Some(left) => *left -= 1,
            None => {}
        }
        if name.as_str() == "ram" {
            self.bytes +=
                changed.map_or(source.bytes(), |ranges| ranges.iter().map(|r| r.end - r.start).sum());
        }
        self.regions.region(name, source, changed)
    }
}

impl Assembled {
    fn assert_equals_witness(&self, number: usize) {
        let (ram, witness) = (&self.regions.0["ram"], &self.regions.0["witness"]);
        assert_eq!((ram.len(), witness.len()), (MEMORY_BYTES as usize, MEMORY_BYTES as usize));
        if ram == witness {
            return;
        }
        let pages = ram.chunks(4_096).zip(witness.chunks(4_096)).enumerate();
        let wrong: Vec<usize> = pages.filter(|(_, (ram, all))| ram != all).map(|(page, _)| page).collect();
        panic!(
            "snapshot {number}: {} pages differ, the first are {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(8)]
        );
    }
}

fn take(
    vm: &mut dyn Vm,
    scope: SnapshotScope,
    sink: &mut Assembled,
) -> Result<SnapshotTimings, SnapshotError> {
    sink.bytes = 0;
    vm.snapshot(scope, sink)
}

/// One boot, snapshots under changing loads, with failures and without being told that they were stored; then a
/// restore and more of them.
fn every_snapshot_is_the_memory_of_its_pause(name: &str, driver: &QemuDriver, noted: bool) {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(name);
    let mut vm = driver.start(&spec, &folder.path().join("first")).unwrap();
    wait_for_boot(&mut *vm);
    let mut sink = Assembled::default();
    set_load(&*vm, 5_000, 24);
    take(&mut *vm, SnapshotScope::Whole, &mut sink).unwrap();
    sink.assert_equals_witness(0);
    vm.committed();

    let (mut pauses, mut last, mut changed) = (Vec::new(), sink.regions.0["ram"].clone(), 0_usize);
    let mut stored = sink.regions.clone();
    for number in 1..=snapshots() {
        match number % 6 {
            0 => set_load(&*vm, 0, 1),
            1 => set_load(&*vm, 1_000, 16),
            3 => set_load(&*vm, 40_000, 24),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(50));
        if number % 5 == 2 {
            // Whenever it fails, nothing of what it was handed counts.
            sink.fails_after = Some(u32::try_from(number % 3).unwrap());
            let failed = take(&mut *vm, SnapshotScope::Changes, &mut sink);
            if failed.is_err() {
                (sink.regions, sink.fails_after) = (stored.clone(), None);
            }
            sink.fails_after = None;
        }
        let timings = take(&mut *vm, SnapshotScope::Changes, &mut sink).unwrap();
        sink.assert_equals_witness(number);
        pauses.push(timings.pause_ms);
        let ram = &sink.regions.0["ram"];
        changed += ram.chunks(4_096).zip(last.chunks(4_096)).filter(|(new, old)| new != old).count();
        last.clone_from(ram);
        if number % 4 == 0 {
            // Taken, and then lost on its way to the disk.
            sink.regions = stored.clone();
        } else {
            vm.committed();
            stored = sink.regions.clone();
        }
    }
    assert!(changed > 1_000, "the guest works between snapshots: {changed} pages");
    pauses.sort_by(f64::total_cmp);
    println!("{name}: {} snapshots, pauses {:.1?}, {changed} pages changed", pauses.len(), pauses);
    let count = ask(&mut *vm, "/count");
    take(&mut *vm, SnapshotScope::Changes, &mut sink).unwrap();
    vm.stop().unwrap();

    let prepared = driver.prepare(&spec, &folder.path().join("restored")).unwrap();
    sink.regions.0.remove("witness");
    sink.regions.restore(prepared.target()).unwrap();
    let mut vm = prepared.resume().unwrap();
    // The load goes on with the guest, and what it writes is all that is handed over.
    for number in 1..=3 {
        let timings = take(&mut *vm, SnapshotScope::Changes, &mut sink).unwrap();
        sink.assert_equals_witness(number);
        println!("restored: {} bytes handed over, {timings:.1?}", sink.bytes);
        // What the store wrote, while QEMU had the memory mapped already, is not taken for the guest's.
        assert!(!noted || sink.bytes < MEMORY_BYTES / 2, "{number}: {} bytes", sink.bytes);
        vm.committed();
        assert_eq!(ask(&mut *vm, "/peek").count, count.count);
    }
}

#[test]
fn with_writes_noted_by_the_kernel() {
    let driver = QemuDriver::new().with_witness();
    let report = driver.check(&spec("noted")).unwrap();
    if let Some(TrackingReport::Comparison { reason, hint }) = report.tracking {
        println!("skipped: {reason} ({hint})");
        return;
    }
    every_snapshot_is_the_memory_of_its_pause("noted", &driver, true);
}

#[test]
fn with_all_memory_compared() {
    let driver = QemuDriver::new().comparing().with_witness();
    every_snapshot_is_the_memory_of_its_pause("compared", &driver, false);
}

/// The spec with a script around its QEMU.
fn in_a_script(name: &str, folder: &Path, line: &str) -> VmSpec {
    let mut spec = spec(name);
    let qemu = spec.qemu.take().unwrap_or_else(|| "qemu-system-x86_64".into());
    let script = folder.join("qemu");
    std::fs::write(&script, format!("#!/bin/sh\n{}\n", line.replace("QEMU", qemu.to_str().unwrap())))
        .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    spec.qemu = Some(script);
    spec
}

/// Four snapshots while it boots.
fn is_consistent(driver: &QemuDriver, spec: &VmSpec, folder: &Path) {
    let mut vm = driver.start(spec, folder).unwrap();
    let mut sink = Assembled::default();
    for number in 0..4 {
        let scope = if number == 0 { SnapshotScope::Whole } else { SnapshotScope::Changes };
        take(&mut *vm, scope, &mut sink).unwrap();
        sink.assert_equals_witness(number);
        vm.committed();
    }
}

/// Debian's `kvm` is one.
#[test]
fn a_script_around_qemu_is_tracked_through() {
    let folder = tempfile::tempdir().unwrap();
    let driver = QemuDriver::new().with_witness();
    if let Some(TrackingReport::Comparison { reason, .. }) = driver.check(&spec("script")).unwrap().tracking {
        println!("skipped: not even QEMU itself can be tracked: {reason}");
        return;
    }
    let spec = in_a_script("script", folder.path(), "true | cat\nexec QEMU \"$@\"");
    assert_eq!(driver.check(&spec).unwrap().tracking, Some(TrackingReport::Kernel));
    is_consistent(&driver, &spec, &folder.path().join("vm"));
}

/// A script that lets go of the library stands for whatever keeps it from being loaded into QEMU.
#[test]
fn a_qemu_that_cannot_be_tracked_is_compared_and_the_check_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let spec = in_a_script("unloaded", folder.path(), "unset LD_PRELOAD\nexec QEMU \"$@\"");
    let driver = QemuDriver::new().with_witness();
    let report = driver.check(&spec).unwrap();
    let Some(TrackingReport::Comparison { reason, hint }) = report.tracking else {
        panic!("{:?}", report.tracking)
    };
    assert!(reason.contains("did not load"), "{reason}");
    assert!(hint.contains("dynamically linked"), "{hint}");
    is_consistent(&driver, &spec, &folder.path().join("vm"));
}

/// Not a test of its own: what `an_ordinary_user_needs_no_right_for_it` runs.
#[test]
fn as_ordinary_user() {
    if env::var_os(ORDINARY).is_none() {
        return;
    }
    let driver = QemuDriver::new().with_witness();
    let report = driver.check(&spec("ordinary")).unwrap();
    println!("as an ordinary user: {:?}", report.tracking);
    assert_eq!(report.tracking, Some(TrackingReport::Kernel));
    let folder = tempfile::tempdir().unwrap();
    let mut vm = driver.start(&spec("ordinary"), folder.path()).unwrap();
    let mut sink = Assembled::default();
    // While it boots, which is load enough.
    for number in 0..10 {
        let scope = if number == 0 { SnapshotScope::Whole } else { SnapshotScope::Changes };
        take(&mut *vm, scope, &mut sink).unwrap();
        sink.assert_equals_witness(number);
        vm.committed();
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("ordinary user done");
}

#[test]
fn an_ordinary_user_needs_no_right_for_it() {
    let driver = QemuDriver::new();
    if let Some(TrackingReport::Comparison { reason, .. }) = driver.check(&spec("ordinary")).unwrap().tracking
    {
        println!("skipped: not even this user can: {reason}");
        return;
    }
    let this = env::current_exe().unwrap();
    let user = NOBODY.to_string();
    let as_nobody = |program: &std::path::Path| {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}")]);
        command.args(["--clear-groups", "--inh-caps=-all", "--"]).arg(program);
        command
    };
    let tried = as_nobody(&this).arg("--list").output().unwrap();
    if !tried.status.success() {
        println!(
            "skipped: can't run {} as another user: {}",
            this.display(),
            String::from_utf8_lossy(&tried.stderr)
        );
        return;
    }
    let mut command = as_nobody(&this);
    command
        .args(["--exact", "consistency::as_ordinary_user", "--nocapture"])
        .env(ORDINARY, "1")
        .env("TMPDIR", "/tmp");
    command.process_group(0);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("ordinary user done"));
}
