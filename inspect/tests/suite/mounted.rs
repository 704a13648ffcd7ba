//! What a mount shows, and that it follows the store.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use sustain_inspect::{Mount, MountError, Unmounted};

use crate::support::{Bench, TIME_MS, name, names, noise, wait_for};

const CHUNK: usize = 65_536;

#[test]
fn each_snapshot_is_a_folder_with_a_file_for_each_region() {
    let bench = Bench::new();
    let mut ram = vec![0; 5 * CHUNK + 100];
    ram[CHUNK..2 * CHUNK].copy_from_slice(&noise(1, CHUNK));
    ram[5 * CHUNK..].copy_from_slice(&noise(2, 100));
    let first = bench.push("mail", &[("ram", &ram), ("empty", &[])]);
    let second = bench.push("mail", &[("ram", &ram), ("disk0", b"disk")]);
    bench.push("shop", &[("ram", b"shop")]);
    let Some((mount, point)) = bench.mount() else { return };
    assert_eq!(names(&point), ["mail", "shop"]);
    let mut expected = vec![first.to_string(), second.to_string(), "latest".to_owned()];
    expected.sort();
    assert_eq!(names(&point.join("mail")), expected);
    assert_eq!(fs::read_link(point.join("mail/latest")).unwrap(), Path::new(&second.to_string()));
    assert_eq!(names(&point.join("mail/latest")), ["disk0", "manifest.json", "ram"]);
    let folder = point.join("mail").join(first.to_string());
    assert_eq!(names(&folder), ["empty", "manifest.json", "ram"]);

    let found = fs::metadata(folder.join("ram")).unwrap();
    assert_eq!(found.len(), ram.len() as u64);
    assert_eq!(found.blocks(), ((CHUNK + 100) as u64).div_ceil(512), "only what is not zero");
    let mtime = |path: &Path| fs::metadata(path).unwrap().mtime();
    assert_eq!(mtime(&folder.join("ram")), (TIME_MS / 1_000) as i64);
    assert_eq!(mtime(&point.join("mail")), (TIME_MS / 1_000) as i64 + 60, "its newest snapshot's");
    assert_eq!(fs::read(folder.join("ram")).unwrap(), ram);
    assert_eq!(fs::read(folder.join("empty")).unwrap(), b"");
    assert_eq!(fs::read(point.join("mail/latest/disk0")).unwrap(), b"disk");

    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["id"], first.to_string());
    assert_eq!((&manifest["service"], &manifest["seq"]), (&"mail".into(), &bench_seq(&bench, first)));
    assert_eq!(manifest["regions"][0]["bytes"], ram.len());
    assert_eq!(mount.unmount().unwrap(), Unmounted::Clean);
    assert_eq!(names(&point), [""; 0]);
}

fn bench_seq(bench: &Bench, id: sustain_proto::SnapshotId) -> serde_json::Value {
    bench.store.manifest(id).unwrap().0.seq.into()
}

#[test]
fn holes_are_found_by_seeking() {
    let bench = Bench::new();
    let mut ram = vec![0; 6 * CHUNK + 5];
    for chunk in [1, 2, 4] {
        ram[chunk * CHUNK] = 1;
    }
    bench.push("s", &[("ram", &ram)]);
    let Some((_mount, point)) = bench.mount() else { return };
    let file = File::open(point.join("s/latest/ram")).unwrap();
    let seek = |to| rustix::fs::seek(&file, to);
    let chunk = CHUNK as u64;
    assert_eq!(seek(SeekFrom::Data(0)).unwrap(), chunk);
    assert_eq!(seek(SeekFrom::Hole(chunk + 7)).unwrap(), 3 * chunk);
    assert_eq!(seek(SeekFrom::Data(3 * chunk)).unwrap(), 4 * chunk);
    assert_eq!(seek(SeekFrom::Hole(0)).unwrap(), 0);
    assert_eq!(seek(SeekFrom::Data(5 * chunk)).unwrap_err(), rustix::io::Errno::NXIO);
    assert_eq!(seek(SeekFrom::Hole(5 * chunk)).unwrap(), 5 * chunk);
    assert_eq!(seek(SeekFrom::Hole(6 * chunk + 5)).unwrap_err(), rustix::io::Errno::NXIO);
}

#[test]
fn the_beginning_of_an_id_is_a_link_and_anything_else_is_not_there() {
    let bench = Bench::new();
    let id = bench.push("mail", &[("ram", b"x")]);
    let other = bench.push("shop", &[("ram", b"y")]);
    let Some((_mount, point)) = bench.mount() else { return };
    let mail = point.join("mail");
    assert_eq!(fs::read(mail.join(&id.to_string()[..12]).join("ram")).unwrap(), b"x");
    assert_eq!(fs::read_link(mail.join(&id.to_string()[..12])).unwrap(), Path::new(&id.to_string()));
    let absent = [&other.to_string(), "abc", ".git", "mail@latest", "latest2", "ÿ"];
    for name in absent {
        assert_eq!(fs::metadata(mail.join(name)).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    }
    assert!(fs::metadata(point.join("nobody")).is_err() && fs::metadata(mail.join("latest/disk9")).is_err());
}

#[test]
fn nothing_can_be_written() {
    let bench = Bench::new();
    bench.push("s", &[("ram", b"x")]);
    let Some((_mount, point)) = bench.mount() else { return };
    let refused = ErrorKind::ReadOnlyFilesystem;
    assert_eq!(fs::write(point.join("s/latest/ram"), b"y").unwrap_err().kind(), refused);
    assert_eq!(fs::write(point.join("s/new"), b"y").unwrap_err().kind(), refused);
    assert_eq!(fs::remove_file(point.join("s/latest/ram")).unwrap_err().kind(), refused);
    assert_eq!(fs::create_dir(point.join("t")).unwrap_err().kind(), refused);
}

#[test]
fn pushes_and_rebases_show_and_what_is_open_stays_readable() {
    let bench = Bench::new();
    let old = noise(1, 20 * CHUNK);
    let first = bench.push("s", &[("ram", &old)]);
    let Some((_mount, point)) = bench.mount() else { return };
    let service = point.join("s");
    let open = File::open(service.join(first.to_string()).join("ram")).unwrap();
    let mut head = vec![0; CHUNK];
    open.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(head, old[..CHUNK]);

    let new = noise(2, 20 * CHUNK);
    let second = bench.push("s", &[("ram", &new)]);
    wait_for("the push shows", || {
        fs::read_link(service.join("latest")).unwrap() == Path::new(&second.to_string())
    });
    assert_eq!(fs::read(service.join("latest/ram")).unwrap(), new);

    let packs_before = bench.files("packs").len();
    bench.store.rebase(&name("s"), None).unwrap();
    let base = bench.store.resolve("s@latest").unwrap();
    assert_ne!(base, second);
    wait_for("the rebase shows", || names(&service) == sorted([base.to_string(), "latest".to_owned()]));
    wait_for("the dropped one is gone", || {
        fs::metadata(service.join(first.to_string())).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    });
    // By its former name it is a link to what has its contents.
    wait_for("the former name leads to the new one", || {
        fs::read_link(service.join(second.to_string())).is_ok_and(|to| to == Path::new(&base.to_string()))
    });
    assert_eq!(fs::read(service.join(second.to_string()).join("ram")).unwrap(), new);

    let mut all = Vec::new();
    (&open).read_to_end(&mut all).unwrap();
    assert!(all == old, "the open file of a dropped snapshot");
    drop(open);
    wait_for("its packs go once nobody has it open", || bench.files("packs").len() < packs_before);
}

fn sorted<const N: usize>(mut names: [String; N]) -> Vec<String> {
    names.sort();
    names.to_vec()
}

#[test]
fn an_empty_store_is_an_empty_folder() {
    let bench = Bench::new();
    let Some((mount, point)) = bench.mount() else { return };
    assert_eq!(names(&point), [""; 0]);
    let again = Mount::new(bench.store.clone(), &point, false).unwrap_err();
    assert!(matches!(again, MountError::Mounted { .. }), "{again:?}");
    let id = bench.push("s", &[("ram", b"x")]);
    wait_for("the first snapshot shows", || {
        fs::read(point.join("s/latest/ram")).is_ok_and(|ram| ram == b"x")
    });
    assert!(point.join("s").join(id.to_string()).is_dir());
    drop(mount);
    assert_eq!(names(&point), [""; 0]);
}

#[test]
fn a_mount_whose_files_are_open_is_taken_away_all_the_same() {
    let bench = Bench::new();
    bench.push("s", &[("ram", b"x")]);
    let Some((mount, point)) = bench.mount() else { return };
    let open = File::open(point.join("s/latest/ram")).unwrap();
    assert_eq!(mount.unmount().unwrap(), Unmounted::Detached);
    assert_eq!(names(&point), [""; 0]);
    drop(open);
}

#[test]
fn a_mount_that_is_unmounted_from_outside_ends() {
    let bench = Bench::new();
    bench.push("s", &[("ram", b"x")]);
    let Some((mount, point)) = bench.mount() else { return };
    assert!(mount.is_alive());
    let mut umount = std::process::Command::new("umount");
    if !umount.arg(&point).status().is_ok_and(|status| status.success()) {
        return crate::support::skip("only root may call umount here");
    }
    wait_for("it notices", || !mount.is_alive());
    assert_eq!(mount.unmount().unwrap(), Unmounted::Clean);
    assert_eq!(names(&point), [""; 0]);
}
