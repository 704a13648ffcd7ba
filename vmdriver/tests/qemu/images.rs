//! Images that a guest must not have, and one that is changed under its guest.

use std::fs::File;
use std::process::Command;
use std::time::SystemTime;

use sustain_vmdriver::{ErrorKind, SnapshotScope, VmDriver, VmState};

use crate::disk::{driver, spec_with_disk};
use crate::support::{Regions, wait_for_boot};

/// A node read what the image named, and its guest could.
#[test]
fn a_guest_whose_image_names_a_file_of_the_host_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec_with_disk("backed", folder.path());
    let disk = spec.disk.as_mut().unwrap();
    let backed = folder.path().join("backed.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&disk.image, &backed])
        .status();
    assert!(made.expect("qemu-img is there: make setup").success());
    disk.image = backed;
    let error = driver().start(&spec, &folder.path().join("vm")).err().unwrap();
    let said = sustain_store::error_chain(&error);
    assert!(said.contains("a backing file"), "{said}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn an_image_that_is_changed_under_its_guest_fails_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec_with_disk("changed", folder.path());
    let mut vm = driver().start(&spec, &folder.path().join("vm")).unwrap();
    wait_for_boot(&mut *vm);
    vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap();
    File::open(folder.path().join("image")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let error = vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap_err();
    let said = sustain_store::error_chain(&error);
    assert!(said.contains("was changed while its guest ran"), "{said}");
    assert_eq!(vm.state(), VmState::Running);
}
