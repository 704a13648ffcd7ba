//! Freezing, reading what was frozen, folding, and blocks that come from elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sustain_proto::{NodeId, RegionName, ServiceName};
use sustain_store::{PushLineage, PushRequest, Store, StoreOptions};
use sustain_vmdriver::disk::{
    BlockSource, Disk, DiskError, DiskOrigin, FrozenDisk, SnapshotBlocks, raw_image,
};

use crate::client::Client;
use crate::support::{MIB, MemorySource, Place, kill_server, options, wait_for};

fn all(frozen: &FrozenDisk) -> Vec<u8> {
    let mut bytes = vec![0; frozen.source().bytes() as usize];
    frozen.source().read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_snapshot_shows_the_moment_of_its_freeze() {
    let mut place = Place::new(MIB);
    let mut model = std::fs::read(&place.image).unwrap();
    let mut client = Client::connect(place.socket()).unwrap();
    client.write(5_000, &[1; 100]).unwrap();
    model[5_000..5_100].fill(1);
    let first = place.disk().freeze().unwrap();
    client.write(5_050, &[2; 100]).unwrap();
    client.zero(0, 4_096).unwrap();

    // Nothing of this disk is in any snapshot yet.
    let frozen = place.disk().frozen(first).unwrap();
    assert!(frozen.changed().is_none() && all(&frozen) == model);
    place.disk().taken(first);
    place.disk().committed();

    model[5_050..5_150].fill(2);
    model[..4_096].fill(0);
    let second = place.disk().freeze().unwrap();
    client.write(900_000, &[3; 5]).unwrap();
    let frozen = place.disk().frozen(second).unwrap();
    assert_eq!(frozen.changed(), Some(std::slice::from_ref(&(0..8_192))));
    assert!(all(&frozen) == model);
    place.disk().taken(second);
    // A third layer is refused until it is folded.
    let disk = place.disk();
    wait_for("end of folding", || disk.status().unwrap().frozen.is_empty());

    // That one was not stored, and the next not even read: the third has the changes of all.
    client.write(700_000, &[4; 5]).unwrap();
    place.disk().freeze().unwrap();
    place.disk().settle();
    model[700_000..700_005].fill(4);
    let third = place.disk().freeze().unwrap();
    let frozen = place.disk().frozen(third).unwrap();
    assert_eq!(frozen.changed().unwrap(), [0..8_192, 696_320..700_416, 897_024..901_120]);
    model[900_000..900_005].fill(3);
    assert!(all(&frozen) == model);
    place.disk().taken(third);
    let disk = place.disk();
    wait_for("end of folding", || disk.status().unwrap().frozen.is_empty());
    assert!(client.read(0, MIB as usize).unwrap().unwrap() == model);
    let status = place.disk().status().unwrap();
    assert_eq!((status.active, status.dirty_bytes, status.lower_bytes), (5, 0, 12_288));
}

#[test]
fn a_third_freeze_is_refused_until_one_is_folded() {
    let mut place = Place::new(MIB);
    let layers = [place.disk().freeze().unwrap(), place.disk().freeze().unwrap()];
    assert!(matches!(place.disk().freeze(), Err(DiskError::Busy)));
    place.disk().taken(layers[0]);
    let disk = place.disk();
    wait_for("end of folding", || disk.status().unwrap().frozen == [layers[1]]);
    assert_eq!(place.disk().freeze().unwrap(), 3);
}

#[test]
fn a_freeze_takes_less_than_a_millisecond() {
    let mut place = Place::new(64 * MIB);
    let mut client = Client::connect(place.socket()).unwrap();
    let mut times = Vec::new();
    for round in 0..50_u64 {
        client.write(round % 16 * MIB, &vec![round as u8; 1 << 20]).unwrap();
        let started = Instant::now();
        let layer = place.disk().freeze().unwrap();
        times.push(started.elapsed().as_micros());
        place.disk().taken(layer);
        let disk = place.disk();
        wait_for("end of folding", || disk.status().unwrap().frozen.is_empty());
    }
    times.sort_unstable();
    println!("freeze: median {} µs, most {} µs", times[25], times[49]);
    // The fastest tenth: other work on the machine makes some take longer, and none shorter.
    assert!(times[5] < 1_000, "{times:?}");
}

#[test]
fn blocks_come_when_they_are_needed_and_the_rest_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut model: Vec<u8> = (0..40 * 65_536_u32).map(|at| (at / 65_536 + 1) as u8).collect();
    model[65_536..131_072].fill(0);
    let source = Arc::new(MemorySource::new(model.clone()));
    source.fails.store(true, Ordering::SeqCst);
    let origin = DiskOrigin::Blocks(Arc::clone(&source) as Arc<_>);
    let mut disk = Disk::create(&folder.path().join("disk"), origin, &options()).unwrap();
    let mut client = Client::connect(disk.socket()).unwrap();
    // Not to be had: an error after a while, which QEMU takes as the order to stop the VM.
    assert_eq!(client.read(39 * 65_536, 512).unwrap(), Err(5));
    assert!(disk.status().unwrap().trouble.unwrap().contains("the test says so"));
    // Whole blocks need nothing from below; half a block does.
    assert_eq!(client.write(8_192, &[9; 4_096]).unwrap(), 0);
    model[8_192..12_288].fill(9);
    assert_eq!(client.write(65_536 * 7, &[9; 10]).unwrap(), 5);

    source.fails.store(false, Ordering::SeqCst);
    let layer = disk.freeze().unwrap();
    assert!(client.read(39 * 65_536, 512).unwrap().unwrap() == model[39 * 65_536..][..512]);
    // What comes from a snapshot is stored: only the block that was written is new.
    let frozen = disk.frozen(layer).unwrap();
    assert_eq!(frozen.changed(), Some(std::slice::from_ref(&(8_192..12_288))));
    assert!(all(&frozen) == model);
    disk.taken(layer);
    // A restore fills the guest's memory meanwhile, and what nobody asks for would compete with it.
    let here = disk.status().unwrap().chunks_here;
    assert!(here < 8, "{here} chunks are here, and three were asked for");
    disk.prefetch();
    // The next process is told too.
    kill_server(&disk);
    wait_for("everything", || disk.status().unwrap().chunks_here == 40);
    source.fails.store(true, Ordering::SeqCst);
    let mut client = Client::connect(disk.socket()).unwrap();
    assert!(client.read(0, model.len()).unwrap().unwrap() == model);
    let mut asked = source.asked.lock().unwrap().clone();
    asked.retain(|chunk| *chunk > 20 && *chunk != 39);
    let all = asked.len();
    asked.sort_unstable();
    asked.dedup();
    println!("{all} fetches of {} chunks", asked.len());
}

#[test]
fn paths_that_no_socket_can_have_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("x".repeat(100));
    std::fs::write(place.path().join("image"), [1; 512]).unwrap();
    let image = || DiskOrigin::Image(place.path().join("image"));
    let error = Disk::create(&folder, image(), &options()).unwrap_err();
    assert!(matches!(error, DiskError::SocketPath { max: 107, .. }), "{error}");
    std::fs::write(place.path().join("image"), []).unwrap();
    let error = Disk::create(&place.path().join("disk"), image(), &options()).unwrap_err();
    assert!(matches!(error, DiskError::Size { found: 0, .. }), "{error}");
    let missing = DiskOrigin::Image(place.path().join("missing"));
    let error = Disk::create(&place.path().join("disk"), missing, &options()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let mut no_server = options();
    no_server.server = vec!["/nowhere/server".into()];
    std::fs::write(place.path().join("image"), [1; 512]).unwrap();
    let error = Disk::create(&place.path().join("disk"), image(), &no_server).unwrap_err();
    assert!(matches!(error, DiskError::Start { .. }), "{error}");
}

#[test]
fn a_qcow2_image_is_converted_once() {
    let place = Place::new(4 * MIB);
    let folder = place.folder.path();
    let qcow2 = folder.join("disk image.qcow2");
    let converted = std::process::Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&place.image, &qcow2])
        .status();
    assert!(converted.expect("qemu-img is there: make setup").success());
    let mut last = 0.0;
    let raw = raw_image(&qcow2, &folder.join("images"), &mut |percent| last = percent).unwrap();
    assert!(std::fs::read(&raw).unwrap() == std::fs::read(&place.image).unwrap());
    assert!((last - 100.0_f64).abs() < 0.01, "told up to {last}");
    let again = raw_image(&qcow2, &folder.join("images"), &mut |_| panic!("converted again")).unwrap();
    assert_eq!(again, raw);
    assert_eq!(raw_image(&place.image, folder, &mut |_| ()).unwrap(), place.image);
    std::fs::write(&qcow2, b"QFI\xfb\0\0\0\x03").unwrap();
    let error = raw_image(&qcow2, &folder.join("images"), &mut |_| ()).unwrap_err();
    assert!(sustain_store::error_chain(&error).contains("qemu-img"), "{error:?}");
    assert_eq!(std::fs::read_dir(folder.join("images")).unwrap().count(), 1, "nothing is left behind");
}

fn qemu_img(arguments: &[&std::ffi::OsStr]) {
    let made = std::process::Command::new("qemu-img").args(arguments).output();
    assert!(made.expect("qemu-img is there: make setup").status.success());
}

/// Only `snapctl service add` looked at images. A node converted what was put in the place of one later, and its
/// guest read the file of the host that it named.
#[test]
fn an_image_that_names_a_file_of_the_host_is_never_converted() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("secret"), [7; 65_536]).unwrap();
    let (secret, image) = (path("secret"), path("disk.qcow2"));
    let words = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(std::ffi::OsStr::new);
    qemu_img(&[words.as_slice(), &[secret.as_os_str(), image.as_os_str()]].concat());
    let error = raw_image(&image, &path("images"), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("a backing file"), "{error}");
    assert!(!path("images").exists());
    // One that says that it is raw, and is none.
    std::fs::write(path("disk.raw"), b"KDMV and more".repeat(512)).unwrap();
    let error = raw_image(&path("disk.raw"), &path("images"), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("vmdk"), "{error}");
}

/// Conversions were told apart by name, size and second: two images of one build in two folders were the same.
#[test]
fn the_conversion_of_one_image_never_serves_another() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("images");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let converted: Vec<Vec<u8>> = [1_u8, 2]
        .into_iter()
        .map(|byte| {
            let own = folder.path().join(byte.to_string());
            std::fs::create_dir(&own).unwrap();
            let (raw, qcow2) = (own.join("raw"), own.join("disk.qcow2"));
            std::fs::write(&raw, vec![byte; 65_536]).unwrap();
            let words = ["convert", "-f", "raw", "-O", "qcow2"].map(std::ffi::OsStr::new);
            qemu_img(&[words.as_slice(), &[raw.as_os_str(), qcow2.as_os_str()]].concat());
            std::fs::File::options().append(true).open(&qcow2).unwrap().set_modified(time).unwrap();
            std::fs::read(raw_image(&qcow2, &cache, &mut |_| ()).unwrap()).unwrap()
        })
        .collect();
    assert!(converted[0].iter().all(|byte| *byte == 1) && converted[1].iter().all(|byte| *byte == 2));
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1, "the older one is removed");
}

/// A raw image is read in place. One that was copied over while its first server ran showed through into the guest,
/// and into its snapshots, and nobody was told.
#[test]
fn an_image_that_is_changed_under_its_disk_is_noticed() {
    let place = Place::new(MIB);
    let disk = place.disk.as_ref().unwrap();
    disk.check_image().unwrap();
    let original = std::fs::metadata(&place.image).unwrap().modified().unwrap();
    let set_time = |time| std::fs::File::open(&place.image).unwrap().set_modified(time).unwrap();
    set_time(original + std::time::Duration::from_nanos(1_000));
    let error = disk.check_image().unwrap_err();
    assert!(matches!(error, DiskError::ImageChanged { .. }), "{error}");
    set_time(original);
    disk.check_image().unwrap();
    // Another file of the same size and time.
    let other = place.folder.path().join("other");
    std::fs::copy(&place.image, &other).unwrap();
    std::fs::File::open(&other).unwrap().set_modified(original).unwrap();
    std::fs::rename(&other, &place.image).unwrap();
    let error = disk.check_image().unwrap_err();
    assert!(error.to_string().contains("was changed while its guest ran"), "{error}");
    std::fs::remove_file(&place.image).unwrap();
    assert!(disk.check_image().is_err());
}

/// The whole way: a disk from an image, its first snapshot in a store, a disk over that snapshot, and its
/// changes as the next.
#[test]
fn a_disk_goes_through_a_store_and_on_from_there() {
    let mut place = Place::new(4 * MIB);
    let mut model = std::fs::read(&place.image).unwrap();
    let options_of_store = StoreOptions { create: true, ..StoreOptions::default() };
    let store = Store::open(&place.folder.path().join("store"), options_of_store).unwrap();
    let region = RegionName::new("disk0").unwrap();
    let begin = || {
        let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([7; 32]), nonce: 9 };
        let service = ServiceName::new("mail").unwrap();
        store.begin_push(PushRequest { service, lineage, time_ms: 1 }).unwrap()
    };
    Client::connect(place.socket()).unwrap().write(3 * MIB - 7, &[5; 100]).unwrap();
    model[(3 * MIB - 7) as usize..][..100].fill(5);
    let layer = place.disk().freeze().unwrap();
    let frozen = place.disk().frozen(layer).unwrap();
    assert!(frozen.changed().is_none());
    let mut push = begin();
    push.ingest(&region, frozen.source()).unwrap();
    let first = push.commit().unwrap().snapshot;

    let blocks = || Arc::new(SnapshotBlocks::new(store.open_snapshot(first).unwrap()).unwrap());
    let folder = place.folder.path().join("restored");
    let mut disk = Disk::create(&folder, DiskOrigin::Blocks(blocks()), &options()).unwrap();
    let mut client = Client::connect(disk.socket()).unwrap();
    client.write(70_000, &[6; 10]).unwrap();
    model[70_000..70_010].fill(6);
    let layer = disk.freeze().unwrap();
    let frozen = disk.frozen(layer).unwrap();
    let mut push = begin();
    push.ingest_changes(&region, frozen.source(), frozen.changed().unwrap()).unwrap();
    let second = push.commit().unwrap().snapshot;
    disk.taken(layer);
    disk.committed();
    assert!(client.read(0, model.len()).unwrap().unwrap() == model);

    let reader = SnapshotBlocks::new(store.open_snapshot(second).unwrap()).unwrap();
    for (chunk, expected) in (0..).zip(model.chunks(65_536)) {
        let mut buffer = vec![0; expected.len()];
        reader.read_chunk(chunk, &mut buffer).unwrap();
        assert!(buffer == expected, "chunk {chunk}");
    }
}
