//! Snapshots of another machine than the one that is to go on: refused before QEMU gets any of it.

use std::path::Path;

use crate::support::{Regions, spec};
use sustain_vmdriver::{ErrorKind, QemuDriver, SnapshotScope, StartError, Vm, VmDriver, VmSpec, VmState};

/// A snapshot of a VM that has hardly begun to boot.
fn saved(folder: &Path) -> Regions {
    let mut vm = QemuDriver::new().start(&spec("machine"), &folder.join("saved")).unwrap();
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    vm.stop().unwrap();
    regions
}

fn restore(folder: &Path, spec: &VmSpec, regions: &Regions) -> Result<Box<dyn Vm>, StartError> {
    let prepared = QemuDriver::new().prepare(spec, &folder.join("restored")).unwrap();
    regions.restore(prepared.target()).unwrap();
    prepared.resume()
}

fn assert_refused(result: Result<Box<dyn Vm>, StartError>, expected: &str) {
    let error = result.err().unwrap_or_else(|| panic!("{expected}: not refused"));
    println!("{error}");
    assert!(
        matches!(&error, StartError::Incompatible { what, .. } if *what == expected),
        "{expected}: {error}"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// The snapshot with one text of its description replaced by another of the same length.
fn edited(regions: &Regions, from: &str, to: &str) -> Regions {
    assert_eq!(from.len(), to.len());
    let mut edited = regions.clone();
    let device = edited.0.get_mut("device").unwrap();
    let places: Vec<usize> = device
        .windows(from.len())
        .enumerate()
        .filter(|(_, text)| *text == from.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(places.len(), 1, "{from} is there once");
    device[places[0]..places[0] + to.len()].copy_from_slice(to.as_bytes());
    edited
}

#[test]
fn another_machine_is_refused_and_another_version_of_qemu_only_noted() {
    let folder = tempfile::tempdir().unwrap();
    let regions = saved(folder.path());
    let changed = |change: fn(&mut VmSpec)| {
        let mut spec = spec("machine");
        change(&mut spec);
        spec
    };
    let other_machine = changed(|spec| spec.machine = "pc-q35-7.1".into());
    assert_refused(restore(folder.path(), &other_machine, &regions), "machine type");
    let other_cpu = changed(|spec| spec.cpu = "max".into());
    assert_refused(restore(folder.path(), &other_cpu, &regions), "processor model");
    let two_cpus = changed(|spec| spec.cpus = 2);
    assert_refused(restore(folder.path(), &two_cpus, &regions), "number of processors");

    // What can't be had on one host is written into the snapshot's description.
    let same = spec("machine");
    let other = edited(&regions, r#""accel":"tcg""#, r#""accel":"kvm""#);
    assert_refused(restore(folder.path(), &same, &other), "accelerator");
    let description = String::from_utf8_lossy(&regions.0["device"][..4_096]).into_owned();
    let number = |after: &str| {
        let rest = description.split_once(after).unwrap().1;
        rest.split_once(|c: char| !c.is_ascii_digit()).unwrap().0.parse::<u32>().unwrap()
    };
    let place = r#""eax":1,"ecx":null,"register":"EDX","bits":"#;
    let bits = number(place);
    let more = (0..32).map(|bit| bits | 1 << bit).find(|more| *more != bits).unwrap();
    let other = edited(&regions, &format!("{place}{bits}"), &format!("{place}{more}"));
    assert_refused(restore(folder.path(), &same, &other), "processor with the features");

    let version = description.split_once(r#""qemu":""#).unwrap().1.split_once('"').unwrap().0;
    let other_version: String = version.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let other = edited(&regions, &format!(r#""qemu":"{version}""#), &format!(r#""qemu":"{other_version}""#));
    assert_eq!(restore(folder.path(), &same, &other).unwrap().state(), VmState::Running);
}
