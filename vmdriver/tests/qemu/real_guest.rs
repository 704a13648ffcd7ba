//! A real VM: booted once, snapshotted under load, restored, and treated badly.

use std::error::Error;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::support::{Regions, ask, get, set_load, spec, wait_for_boot};
use sustain_proto::RegionName;
use sustain_store::RegionSource;
use sustain_vmdriver::{
    QemuDriver, SnapshotError, SnapshotScope, SnapshotSink, SnapshotTimings, Vm, VmDriver, VmState,
};

/// The crate's main job, on one boot: count to 5, snapshots under load, failures in between, then on from
/// the last snapshot in another QEMU with 6, without having booted again.
#[test]
fn a_service_goes_on_from_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let driver = QemuDriver::new();
    let spec = spec("counter");
    println!("{:?}", driver.check(&spec).unwrap());
    let started = Instant::now();
    let mut vm = driver.start(&spec, &folder.path().join("first")).unwrap();
    let booted = wait_for_boot(&mut *vm);
    println!("first answer {} ms after the start", started.elapsed().as_millis());
    assert_eq!(booted.count, 0);
    assert_command_line_names_the_service(vm.pid());
    for expected in 1..=5 {
        assert_eq!(ask(&mut *vm, "/count").count, expected);
    }

    set_load(&*vm, 5_000, 32);
    a_sink_that_fails_does_not_stop_the_guest(&mut *vm);
    a_sink_that_panics_does_not_stop_the_guest(&mut *vm);

    let mut regions = Regions::default();
    report(&vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap());
    assert_eq!(regions.0.keys().collect::<Vec<_>>(), ["device", "ram"]);
    println!("{} bytes of device state", regions.0["device"].len());
    // Counted after the snapshot, so lost with the VM.
    assert_eq!(ask(&mut *vm, "/count").count, 6);
    let pid = vm.pid();
    vm.stop().unwrap();
    assert!(!is_alive(pid));

    for round in 0..2 {
        let started = Instant::now();
        let mut spec = spec.clone();
        // Restoring with a newer QEMU than the one that saved is how hosts are upgraded.
        if let Some(qemu) = std::env::var_os("SUSTAIN_QEMU_RESTORE") {
            spec.qemu = Some(qemu.into());
        }
        let prepared = driver.prepare(&spec, &folder.path().join(format!("restored{round}"))).unwrap();
        regions.restore(prepared.target()).unwrap();
        let filled_ms = started.elapsed().as_millis();
        let mut vm = prepared.resume().unwrap();
        let resumed_ms = started.elapsed().as_millis();
        let count = ask(&mut *vm, "/count");
        let answered_ms = started.elapsed().as_millis();
        println!("restored: filled after {filled_ms} ms, resumed {resumed_ms} ms, answered {answered_ms} ms");
        // The second round restores what the first saved after one count more.
        assert_eq!((count.count, &count.boot_id), (6 + round, &booted.boot_id));
        assert!(count.uptime_ms > booted.uptime_ms);
        assert_eq!(vm.state(), VmState::Running);
        // A restored VM is as good as any: it can be saved again.
        regions = Regions::default();
        report(&vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap());
        if round == 1 {
            a_restored_guest_can_reboot(&mut *vm, &booted.boot_id);
        }
    }
}

/// A QEMU that loads a state leaves its firmware's memory empty, and a machine without firmware never starts again.
fn a_restored_guest_can_reboot(vm: &mut dyn Vm, boot_id: &str) {
    let before_ms = ask(vm, "/peek").uptime_ms;
    // The machine is reset at once, so there is no answer.
    assert_eq!(get(vm.forwards()[0].host, "/reboot", Duration::from_secs(2)), None);
    let rebooted = wait_for_boot(vm);
    println!("rebooted after {before_ms} ms of service");
    assert_ne!(rebooted.boot_id, boot_id);
    assert_eq!(rebooted.count, 0);
}

fn assert_command_line_names_the_service(pid: u32) {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    assert!(line.contains("qemu") && line.contains("sustain:counter"), "{line}");
}

fn report(timings: &SnapshotTimings) {
    println!("{timings:.1?}");
    assert!(timings.pause_ms > 0.0 && timings.device_ms > 0.0 && timings.memory_ms > 0.0);
    // QEMU's clock and ours agree on what the pause consists of.
    let in_pause = timings.memory_ms.max(timings.device_ms);
    assert!(timings.pause_ms <= timings.stop_ms + in_pause + timings.resume_ms + 1.0, "{timings:?}");
    assert!(timings.pause_ms >= in_pause, "{timings:?}");
}

struct Failing {
    panic: bool,
}

impl SnapshotSink for Failing {
    fn region(
        &mut self,
        name: &RegionName,
        _source: &dyn RegionSource,
        _changed: Option<&[Range<u64>]>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        assert!(!self.panic, "a sink that panics");
        if name.as_str() == "ram" { Err("the disk is full".into()) } else { Ok(()) }
    }
}

fn a_sink_that_fails_does_not_stop_the_guest(vm: &mut dyn Vm) {
    let error = vm.snapshot(SnapshotScope::Whole, &mut Failing { panic: false }).unwrap_err();
    assert!(matches!(&error, SnapshotError::Sink { region, .. } if region.as_str() == "ram"), "{error}");
    assert!(error.source().unwrap().to_string().contains("disk is full"));
    assert_eq!(vm.state(), VmState::Running);
    assert_eq!(ask(vm, "/peek").count, 5);
}

fn a_sink_that_panics_does_not_stop_the_guest(vm: &mut dyn Vm) {
    let outcome =
        catch_unwind(AssertUnwindSafe(|| vm.snapshot(SnapshotScope::Whole, &mut Failing { panic: true })));
    assert!(outcome.is_err());
    assert_eq!(vm.state(), VmState::Running);
    assert_eq!(ask(vm, "/peek").count, 5);
}

fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}
