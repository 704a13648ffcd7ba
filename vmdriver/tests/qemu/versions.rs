//! A guest that goes from one version of QEMU to another and back, with all that it is given: memory, disk, agent,
//! channel, random numbers, firmware. `SUSTAIN_QEMU_OTHER` names the other QEMU; see `make test-qemu-versions`.

use std::env;
use std::fmt::{Debug, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::disk::{blocks, driver, instants, restore, spec_with_disk, wait_for_writes};
use crate::inside::{run, wait_for_agent, wait_for_wake};
use crate::support::{Regions, ask, get, wait_for_boot};
use sustain_vmdriver::{SnapshotScope, VmDriver, VmSpec, VmState};

#[test]
fn a_guest_goes_from_one_version_of_qemu_to_another_and_back() {
    let Some(other) = env::var_os("SUSTAIN_QEMU_OTHER").map(PathBuf::from) else {
        println!("skipped: there is only one QEMU; SUSTAIN_QEMU_OTHER=/path/to/another makes this run");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let one = spec_with_disk("versions", folder.path());
    let mut two = one.clone();
    two.qemu = Some(other);
    let version = |spec: &VmSpec| {
        let report = driver().check(spec).unwrap();
        println!("{} at {}: {:?}", report.qemu_version, report.qemu.display(), report.tracking);
        report.qemu_version
    };
    assert_ne!(version(&one), version(&two), "two of the same version say nothing");
    goes_there_and_back(&one, &two, folder.path());
    goes_there_and_back(&two, &one, folder.path());
}

/// Three restores: in the other version, in its own again, and once more in that, which is no change.
fn goes_there_and_back(home: &VmSpec, abroad: &VmSpec, folder: &Path) {
    let run_dir = folder.join("vm");
    let mut vm = driver().start(home, &run_dir).unwrap();
    let booted = wait_for_boot(&mut *vm);
    wait_for_agent(&mut *vm);
    assert_eq!(instants(&*vm, "?run=1").unwrap().errors, 0);
    let mut expected = 0;
    for (spec, warnings_expected) in [(abroad, 1), (home, 1), (home, 0)] {
        expected += 1;
        assert_eq!(ask(&mut *vm, "/count").count, expected);
        let before = wait_for_writes(&mut *vm, 10);
        let mut regions = Regions::default();
        vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
        vm.stop().unwrap();

        let warnings = Warnings::default();
        vm = tracing::subscriber::with_default(warnings.clone(), || {
            restore(spec, &regions, &blocks(&regions), &run_dir)
        });
        let warnings = warnings.0.lock().unwrap().clone();
        assert_eq!(warnings.len(), warnings_expected, "{warnings:?}");
        assert!(warnings.iter().all(|text| text.contains("another version of QEMU")), "{warnings:?}");
        let now = ask(&mut *vm, "/peek");
        assert_eq!((now.count, &now.boot_id), (expected, &booted.boot_id));
        assert!(wait_for_writes(&mut *vm, 10).memory > before.memory);
        let wake = wait_for_wake(&mut *vm);
        for step in [&wake.network, &wake.entropy, &wake.clock, &wake.host_name] {
            assert!(step.is_done(), "{wake:?}");
        }
        assert!(vm.take_channel().is_some());
        let agent = wait_for_agent(&mut *vm);
        let (exit, text) = run(&*agent, "head -c 64 /dev/hwrng | wc -c").unwrap();
        assert_eq!((exit.code, text.trim()), (Some(0), "64"), "the guest's source of random numbers");
        assert_eq!(vm.state(), VmState::Running);
    }
    // The firmware is the present QEMU's, not that of the one that the guest booted in.
    assert_eq!(get(vm.forwards()[0].host, "/reboot", Duration::from_secs(2)), None);
    assert_ne!(wait_for_boot(&mut *vm).boot_id, booted.boot_id);
    vm.stop().unwrap();
}

/// Collects what is warned of.
#[derive(Debug, Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
