//! File systems in regions: read through a mount, and named in differences. Needs e2fsprogs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use sustain_inspect::{FileKind, FilesDiff, RegionDiff, Span, compare};
use sustain_store::NoProgress;

use crate::support::{Bench, noise, skip};

const PAGE: u64 = 4_096;
const PAGE_BYTES: usize = 4_096;

/// Runs one of e2fsprogs; none, and a word about it, where it is not installed.
fn e2fs(program: &str, arguments: &[&str]) -> Option<String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists());
    let Some(file) = found else {
        skip(&format!("{program} of e2fsprogs is not installed"));
        return None;
    };
    let output = Command::new(file).args(arguments).output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A guest's files, and an image of them with these options of mkfs.ext4.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new(options: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for part in ["etc", "var/spool/mail", "var/empty"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        fs::write(root.join("etc/hostname"), "guest\n").unwrap();
        fs::write(root.join("var/spool/mail/user1"), noise(1, 100_000)).unwrap();
        fs::write(root.join("var/spool/mail/user2"), noise(2, 50_000)).unwrap();
        // So many pieces that they need a tree.
        let pieces = fs::File::create(root.join("var/pieces")).unwrap();
        for piece in 0..500 {
            std::os::unix::fs::FileExt::write_all_at(&pieces, &noise(piece, PAGE_BYTES), piece * 2 * PAGE)
                .unwrap();
        }
        let disk = Self { folder };
        let image = disk.path("image");
        let mut arguments = vec!["-q", "-F", "-b", "4096", "-d", root.to_str().unwrap()];
        arguments.extend(options);
        arguments.extend([image.to_str().unwrap(), "24M"]);
        e2fs("mkfs.ext4", &arguments)?;
        Some(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path("image")).unwrap()
    }

    /// Changes the image with debugfs.
    fn change(&self, commands: &str) {
        let script = self.path("commands");
        fs::write(&script, commands).unwrap();
        e2fs("debugfs", &["-w", "-f", script.to_str().unwrap(), self.path("image").to_str().unwrap()])
            .unwrap();
    }

    /// The number after a word in what debugfs says of a file.
    fn first_block(&self, path: &str) -> u64 {
        let said = e2fs("debugfs", &["-R", &format!("blocks {path}"), self.path("image").to_str().unwrap()])
            .unwrap();
        said.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn diff(bench: &Bench, before: &[u8], after: &[u8]) -> RegionDiff {
    let ids = [before, after].map(|bytes| bench.push("s", &[("disk0", bytes)]));
    let [before, after] = ids.map(|id| bench.store.open_snapshot(id).unwrap());
    compare(&before, &Arc::new(after), &NoProgress).unwrap().remove(0)
}

/// What each file has, by path.
fn listed(files: &FilesDiff) -> Vec<(&str, FileKind, u64)> {
    let mut listed: Vec<_> = files
        .files
        .iter()
        .map(|change| (change.path.as_deref().unwrap(), change.kind, change.bytes_changed))
        .collect();
    listed.sort_unstable_by_key(|(path, ..)| *path);
    listed
}

fn sum(diff: &RegionDiff) -> u64 {
    let files = diff.ext4.as_ref().unwrap();
    let padding = |change: &sustain_inspect::FileChange| change.bytes_changed.next_multiple_of(PAGE);
    files.files.iter().map(padding).sum::<u64>()
        + files.metadata_bytes
        + files.journal_bytes
        + files.free_bytes
        + files.outside_bytes
}

#[test]
fn a_guests_files_come_right_out_of_a_mounted_disk() {
    let Some(disk) = Disk::new(&[]) else { return };
    let bench = Bench::new();
    bench.push("s", &[("ram", b"x"), ("disk0", &disk.bytes())]);
    let Some((_mount, point)) = bench.mount() else { return };
    let image = point.join("s/latest/disk0");
    let debugfs = |request: &str| e2fs("debugfs", &["-R", request, image.to_str().unwrap()]).unwrap();
    assert_eq!(debugfs("cat /etc/hostname"), "guest\n");
    let copy = disk.path("copy");
    debugfs(&format!("dump /var/spool/mail/user1 {}", copy.display()));
    assert!(fs::read(&copy).unwrap() == noise(1, 100_000));
    let checked = e2fs("e2fsck", &["-f", "-n", image.to_str().unwrap()]).unwrap();
    assert!(checked.contains("0.0% non-contiguous") || checked.contains("non-contiguous"), "{checked}");
}

#[test]
fn a_changed_page_is_told_with_its_file_and_where_in_it() {
    let Some(disk) = Disk::new(&[]) else { return };
    let bench = Bench::new();
    let before = disk.bytes();
    let mut after = before.clone();
    let mut change = |file: Vec<u8>, page: usize| {
        let content = &file[page * PAGE_BYTES..(page + 1) * PAGE_BYTES];
        let at = before.chunks(PAGE_BYTES).position(|block| block == content).unwrap() * PAGE_BYTES;
        after[at + 9] ^= 0xFF;
    };
    change(noise(1, 100_000), 3);
    change(noise(1, 100_000), 4);
    change(noise(1, 100_000), 20);
    change(noise(377, PAGE_BYTES), 0);
    let found = diff(&bench, &before, &after);
    let files = found.ext4.as_ref().unwrap();
    assert_eq!(
        listed(files),
        [("/var/pieces", FileKind::File, PAGE), ("/var/spool/mail/user1", FileKind::File, 3 * PAGE)]
    );
    assert_eq!(
        files.files[0].ranges,
        [Span { offset: 3 * PAGE, bytes: 2 * PAGE }, Span { offset: 20 * PAGE, bytes: PAGE }]
    );
    assert_eq!(files.files[1].ranges, [Span { offset: 2 * 377 * PAGE, bytes: PAGE }]);
    assert_eq!((files.metadata_bytes, files.free_bytes, files.journal_bytes), (0, 0, 0));
    assert_eq!(files.problems, [""; 0]);
}

#[test]
fn new_and_deleted_files_are_told_apart_from_metadata_and_free_space() {
    let Some(disk) = Disk::new(&[]) else { return };
    let bench = Bench::new();
    let before = disk.bytes();
    let source = disk.path("source");
    fs::write(&source, noise(9, 30_000)).unwrap();
    disk.change(&format!("rm /var/spool/mail/user2\nmkdir /srv\nwrite {} /srv/new\n", source.display()));
    // A freed block that is written again belongs to nobody.
    let mut after = disk.bytes();
    let freed = before
        .chunks(PAGE_BYTES)
        .position(|block| block == &noise(2, 50_000)[PAGE_BYTES..2 * PAGE_BYTES])
        .unwrap();
    let reused = after.chunks(PAGE_BYTES).any(|block| block == &noise(9, 30_000)[..PAGE_BYTES]);
    assert!(reused, "the new file is there");
    let last_free = (0..12).map(|step| freed + 11 - step).find(|block| {
        after[block * PAGE_BYTES..][..PAGE_BYTES] == before[block * PAGE_BYTES..][..PAGE_BYTES]
    });
    let free = last_free.unwrap();
    after[free * PAGE_BYTES] ^= 1;
    let found = diff(&bench, &before, &after);
    let files = found.ext4.as_ref().unwrap();
    let told = listed(files);
    assert!(told.contains(&("/srv/new", FileKind::File, 30_000)), "{told:?}");
    assert!(
        told.contains(&("/srv", FileKind::Folder, PAGE)) && told.contains(&("/", FileKind::Folder, PAGE)),
        "{told:?}"
    );
    assert!(told.iter().any(|(path, ..)| *path == "/var/spool/mail"), "{told:?}");
    assert!(files.metadata_bytes >= PAGE, "bitmaps and inodes");
    assert_eq!(files.free_bytes, PAGE, "{files:?}");
    assert_eq!(sum(&found), found.bytes_changed, "each byte is somebody's");
}

/// A disk that was in use has its newest names in the journal only.
#[test]
fn what_the_journal_holds_counts() {
    let Some(disk) = Disk::new(&["-O", "^metadata_csum"]) else { return };
    let bench = Bench::new();
    let before = disk.bytes();
    let block = disk.first_block("/var/spool/mail");
    let mut names = before[block as usize * PAGE_BYTES..][..PAGE_BYTES].to_vec();
    let at = names.windows(5).position(|bytes| bytes == b"user1").unwrap();
    names[at..at + 5].copy_from_slice(b"other");
    let file = disk.path("names");
    fs::write(&file, names).unwrap();
    disk.change(&format!("jo\njw -b {block} {}\njc\n", file.display()));
    let mut after = disk.bytes();
    let content = &noise(1, 100_000)[PAGE_BYTES..2 * PAGE_BYTES];
    let changed = before.chunks(PAGE_BYTES).position(|block| block == content).unwrap() * PAGE_BYTES;
    after[changed] ^= 1;
    let found = diff(&bench, &before, &after);
    let files = found.ext4.as_ref().unwrap();
    assert_eq!(listed(files), [("/var/spool/mail/other", FileKind::File, PAGE)], "{files:?}");
    assert!(files.journal_bytes >= 3 * PAGE, "{files:?}");
    // That is what the kernel and e2fsck would make of it.
    let image = disk.path("image");
    e2fs("e2fsck", &["-f", "-y", image.to_str().unwrap()]).unwrap();
    let said = e2fs("debugfs", &["-R", "ls -p /var/spool/mail", image.to_str().unwrap()]).unwrap();
    assert!(said.contains("/other/"), "{said}");
}

#[test]
fn blocks_of_1_kib_and_no_journal_are_understood() {
    for options in [&["-O", "^has_journal"][..], &["-O", "^64bit,^flex_bg"]] {
        let Some(disk) = small(options) else { return };
        let bench = Bench::new();
        let before = fs::read(disk.path().join("image")).unwrap();
        let mut after = before.clone();
        let at = before.chunks(1_024).position(|block| block == &noise(5, 20_000)[..1_024]).unwrap();
        after[at * 1_024] ^= 1;
        let found = diff(&bench, &before, &after);
        let files = found.ext4.as_ref().unwrap();
        // A page is four blocks: a neighbour may be told, too.
        let change = files.files.iter().find(|change| change.path.as_deref() == Some("/folder/file"));
        assert_eq!(change.unwrap().ranges[0].offset, 0, "{options:?} {files:?}");
        assert_eq!(files.problems, [""; 0]);
    }
}

/// An image of 4 MiB with blocks of 1 KiB.
fn small(options: &[&str]) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("root"), folder.path().join("image"));
    fs::create_dir_all(root.join("folder")).unwrap();
    fs::write(root.join("folder/file"), noise(5, 20_000)).unwrap();
    let mut arguments = vec!["-q", "-F", "-b", "1024", "-d", root.to_str().unwrap()];
    arguments.extend(options);
    arguments.extend([image.to_str().unwrap(), "4M"]);
    e2fs("mkfs.ext4", &arguments)?;
    Some(folder)
}

/// A guest may write anything to its disk.
#[test]
fn any_damage_to_a_file_system_ends_in_a_report() {
    let Some(folder) = small(&[]) else { return };
    let image = fs::read(folder.path().join("image")).unwrap();
    let bench = Bench::new();
    let used: Vec<usize> = (0..image.len() / 1_024)
        .filter(|block| image[block * 1_024..][..1_024].iter().any(|byte| *byte != 0))
        .collect();
    let place = prop_oneof![Just(1_usize), Just(2), 0..used.len()]
        .prop_map(move |number| used[number.min(used.len() - 1)]);
    let damage = proptest::collection::vec((place, 0..1_024_usize, any::<u8>()), 1..40);
    proptest!(ProptestConfig::with_cases(60), |(damage in damage)| {
        let mut after = image.clone();
        for (block, at, byte) in damage {
            after[block * 1_024 + at] = byte;
        }
        // The magic numbers stay, or there is nothing to look into.
        after[1_024 + 0x38..1_024 + 0x3A].copy_from_slice(&[0x53, 0xEF]);
        let found = diff(&bench, &image, &after);
        prop_assert!(found.ext4.is_some() || found.ext4_problem.is_some() || found.pages_changed == 0);
    });
}

#[test]
fn what_is_no_file_system_is_only_told_by_pages() {
    let bench = Bench::new();
    let found = diff(&bench, &noise(1, 100_000), &noise(2, 100_000));
    assert!(found.ext4.is_none() && found.ext4_problem.is_none() && found.pages_changed == 25);
    let mut claims = vec![0; 100_000];
    claims[1_024 + 0x38..1_024 + 0x3A].copy_from_slice(&[0x53, 0xEF]);
    let found = diff(&bench, &noise(1, 100_000), &claims);
    assert!(found.ext4_problem.is_some(), "{found:?}");
}
