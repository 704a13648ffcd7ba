//! Whether a flush reaches the medium, seen by the file system: what was only written has no place there yet.

use std::process::Command;

use sustain_vmdriver::disk::DiskOptions;

use crate::client::Client;
use crate::support::{MIB, Place, options};

/// Files of the first layer, which is written to, with data that have no place on the medium; none if that can't be
/// told. The next layer lies ready, and is empty.
fn unplaced(place: &Place) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(place.folder.path().join("disk")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("layer-1.") {
            let output = Command::new("/usr/sbin/filefrag").arg("-v").arg(&path).output().ok()?;
            if !output.status.success() {
                return None;
            }
            if String::from_utf8_lossy(&output.stdout).contains("delalloc") {
                found.push(name);
            }
        }
    }
    Some(found)
}

/// Writes and flushes at such a disk; what then has no place yet.
fn after_a_flush(syncs: bool) -> Option<Vec<String>> {
    let place = Place::with(4 * MIB, &DiskOptions { syncs, ..options() });
    let mut client = Client::connect(place.socket()).unwrap();
    assert_eq!(client.write(MIB, &[7; 300_000]).unwrap(), 0);
    assert_eq!(client.flush().unwrap(), 0);
    unplaced(&place)
}

#[test]
fn a_flush_reaches_the_medium_only_where_that_is_asked_for() {
    match after_a_flush(false) {
        None => println!("skipped: filefrag of e2fsprogs can't look at files here"),
        Some(files) if files.is_empty() => println!("skipped: this file system gives places at once"),
        Some(_) => assert_eq!(after_a_flush(true), Some(Vec::new())),
    }
}
