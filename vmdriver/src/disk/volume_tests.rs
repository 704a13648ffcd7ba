//! Random operations on a volume against an array, with freezes and folds, and with the process killed
//! after any of them: its files are then opened again as they are.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use sustain_store::RegionSource;

use super::*;
use crate::disk::description::{BaseKind, Description};
use crate::disk::frozen::FrozenSource;
use crate::disk::stack::{FreezeError, copy_down};

/// Not a whole number of blocks, so that the last one is short.
const BYTES: u64 = 40 * 4_096 + 1_536;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Trim(u64, u64),
    Freeze,
    Fold,
    /// Half a fold, as if the process had been killed in it.
    HalfFold,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..BYTES;
    let length = || prop_oneof![0_u64..600, 4_000_u64..5_000, 0_u64..90_000, Just(4_096_u64)];
    prop_oneof![
        6 => (at(), length(), any::<u8>()).prop_map(|(at, bytes, fill)| Step::Write(at, bytes, fill)),
        2 => (at().prop_map(|at| at / 4_096 * 4_096), length(), any::<u8>())
            .prop_map(|(at, bytes, fill)| Step::Write(at, bytes, fill)),
        2 => (at(), length()).prop_map(|(at, bytes)| Step::Zero(at, bytes)),
        1 => (at(), length()).prop_map(|(at, bytes)| Step::Trim(at, bytes)),
        2 => Just(Step::Freeze),
        2 => Just(Step::Fold),
        1 => Just(Step::HalfFold),
        2 => Just(Step::Kill),
    ]
}

fn open(folder: &Path, image: &Path) -> Volume {
    let bytes = fs::metadata(image).unwrap().len();
    let base = Base::Image { file: File::open(image).unwrap(), bytes };
    Volume::new(BYTES, Stack::open(folder, BYTES).unwrap(), base, false)
}

fn content(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0xee; BYTES as usize];
    volume.read(0, &mut bytes).unwrap();
    bytes
}

/// What the extents call a hole must be zero, and they must cover everything once.
fn check_extents(volume: &Volume, model: &[u8]) {
    let mut at = 0;
    for extent in volume.extents(0..BYTES, usize::MAX) {
        let end = at + extent.bytes as usize;
        assert!(!extent.is_hole || model[at..end].iter().all(|byte| *byte == 0), "{at}..{end}");
        at = end;
    }
    assert_eq!(at as u64, BYTES);
}

struct Frozen {
    layer: u64,
    content: Vec<u8>,
    before: Vec<u8>,
}

/// A frozen layer read by another process shows the moment of the freeze, and what it says is unchanged
/// since the freeze before is.
fn check_frozen(folder: &Path, frozen: &Frozen) {
    let source = FrozenSource::open(folder, frozen.layer, None).unwrap();
    let mut bytes = vec![0xee; BYTES as usize];
    source.read_at(0, &mut bytes).unwrap();
    assert!(bytes == frozen.content, "the frozen layer {} changed", frozen.layer);
    let mut rebuilt = frozen.before.clone();
    for range in source.changed() {
        let range = range.start as usize..range.end as usize;
        rebuilt[range.clone()].copy_from_slice(&bytes[range]);
    }
    assert!(rebuilt == frozen.content, "a change is missing among those of layer {}", frozen.layer);
    let mut rebuilt = vec![0; BYTES as usize];
    for range in source.data_ranges().unwrap() {
        let range = range.start as usize..range.end as usize;
        rebuilt[range.clone()].copy_from_slice(&bytes[range]);
    }
    assert!(rebuilt == frozen.content, "data outside of the data ranges of layer {}", frozen.layer);
}

fn run(steps: Vec<Step>) {
    let place = tempfile::tempdir().unwrap();
    let (folder, image) = (place.path().join("disk"), place.path().join("image"));
    fs::create_dir(&folder).unwrap();
    // Data, a hole, data, and an end before the disk's.
    let base = File::create(&image).unwrap();
    base.write_all_at(&[0x11; 50_000], 0).unwrap();
    base.write_all_at(&[0x22; 9_000], 120_000).unwrap();
    let mut model = vec![0; BYTES as usize];
    base.read_exact_at(&mut [0; 1], 0).unwrap_err();
    File::open(&image).unwrap().read_exact_at(&mut model[..129_000], 0).unwrap();
    Stack::create(&folder, BYTES).unwrap();
    let kind = BaseKind::Image { path: image.clone(), bytes: 129_000 };
    Description::new(BYTES, kind, false).save(&folder).unwrap();

    let mut volume = open(&folder, &image);
    let mut frozen: Vec<Frozen> = Vec::new();
    let mut at_freeze = model.clone();
    for step in steps {
        let end = |at: u64, bytes: u64| (at + bytes).min(BYTES);
        match step {
            Step::Write(at, bytes, fill) => {
                let range = at as usize..end(at, bytes) as usize;
                model[range.clone()].fill(fill);
                volume.write(at, &model[range]).unwrap();
            }
            Step::Zero(at, bytes) => {
                model[at as usize..end(at, bytes) as usize].fill(0);
                volume.zero(at..end(at, bytes)).unwrap();
            }
            Step::Trim(at, bytes) => {
                let (first, last) = (at.next_multiple_of(4_096), end(at, bytes));
                let last = if last == BYTES { last } else { last / 4_096 * 4_096 };
                if first < last {
                    model[first as usize..last as usize].fill(0);
                }
                volume.trim(at..end(at, bytes)).unwrap();
            }
            Step::Freeze => {
                let layer = volume.stack().active().id();
                match volume.change(|stack| stack.freeze(layer)) {
                    Ok(()) => {
                        let before = std::mem::replace(&mut at_freeze, model.clone());
                        frozen.push(Frozen { layer, content: model.clone(), before });
                        // Said again, as after a lost answer.
                        volume.change(|stack| stack.freeze(layer)).unwrap();
                    }
                    Err(error) => {
                        assert!(matches!(error, FreezeError::Busy) && frozen.len() == 2, "{error}");
                    }
                }
            }
            Step::Fold | Step::HalfFold if frozen.is_empty() => {}
            Step::Fold | Step::HalfFold => {
                let (layer, lower) = volume.stack().oldest_frozen().unwrap();
                assert_eq!(layer.id(), frozen[0].layer);
                if matches!(step, Step::HalfFold) {
                    let looks = std::cell::Cell::new(0);
                    let _ = copy_down(&layer, &lower, || looks.replace(looks.get() + 1) == 1);
                } else {
                    copy_down(&layer, &lower, || false).unwrap();
                    volume.change(|stack| stack.remove_folded(layer.id())).unwrap();
                    frozen.remove(0);
                }
            }
            Step::Kill => volume = open(&folder, &image),
        }
        assert!(content(&volume) == model);
        check_extents(&volume, &model);
        frozen.iter().for_each(|frozen| check_frozen(&folder, frozen));
    }
    assert!(content(&open(&folder, &image)) == model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_volume_is_an_array_that_survives(steps in prop::collection::vec(step(), 1..25)) {
        run(steps);
    }
}

#[test]
fn what_a_killed_process_was_at_is_undone() {
    let place = tempfile::tempdir().unwrap();
    let (folder, image) = (place.path().join("disk"), place.path().join("image"));
    fs::create_dir(&folder).unwrap();
    fs::write(&image, vec![1; BYTES as usize]).unwrap();
    Stack::create(&folder, BYTES).unwrap();
    let volume = open(&folder, &image);
    // Data written, and not marked yet.
    File::options()
        .write(true)
        .open(folder.join("layer-1.data"))
        .unwrap()
        .write_all_at(&[9; 4_096], 0)
        .unwrap();
    // A layer half made, one made and not in use, one of which half is removed.
    fs::write(folder.join("layer-2.new"), b"x").unwrap();
    crate::disk::stack::make_layer(&folder, 3, BYTES).unwrap();
    fs::write(folder.join("layer-7.data"), b"x").unwrap();
    assert!(content(&volume) == vec![1; BYTES as usize]);
    let volume = open(&folder, &image);
    assert!(content(&volume) == vec![1; BYTES as usize]);
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["layer-1.data", "layer-1.map", "lower.data", "lower.map"]);
}

/// Four writers, one reader, freezes and folds all at once: each block keeps what its writer wrote last.
#[test]
fn writers_do_not_disturb_each_other() {
    let place = tempfile::tempdir().unwrap();
    let (folder, image) = (place.path().join("disk"), place.path().join("image"));
    fs::create_dir(&folder).unwrap();
    fs::write(&image, vec![0xff; BYTES as usize]).unwrap();
    Stack::create(&folder, BYTES).unwrap();
    let volume = open(&folder, &image);
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let volume = &volume;
            scope.spawn(move || {
                for round in 0..150_u64 {
                    // All four share every block, a quarter each.
                    for block in 0..40 {
                        let at = block * 4_096 + writer * 1_024;
                        volume.write(at, &[(round % 250) as u8; 1_024]).unwrap();
                        let mut found = [0; 1_024];
                        volume.read(at, &mut found).unwrap();
                        assert_eq!(found, [(round % 250) as u8; 1_024], "writer {writer}, block {block}");
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..40 {
                let layer = volume.stack().active().id();
                volume.change(|stack| stack.freeze(layer)).unwrap();
                let (layer, lower) = volume.stack().oldest_frozen().unwrap();
                copy_down(&layer, &lower, || false).unwrap();
                volume.change(|stack| stack.remove_folded(layer.id())).unwrap();
            }
        });
    });
    assert!(content(&volume)[..40 * 4_096].iter().all(|byte| *byte == 149));
    let volume = open(&folder, &image);
    assert!(content(&volume)[..40 * 4_096].iter().all(|byte| *byte == 149));
}
