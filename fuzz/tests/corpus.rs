//! Each target over its corpus and thousands of mutations: no panic, no memory out of proportion, no long wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sustain_fuzz::{Mutations, TARGETS, Target};

/// Mutations of each target's corpus, unless `SUSTAIN_FUZZ_MUTATIONS` says otherwise.
const MUTATIONS: usize = 10_000;

/// Most bytes that a target may ask for at a time, in all: what an index expands to, and the directory of a full pack.
const MEMORY_BYTES_MAX: usize = 512 << 20;

/// Longest that one input may take, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread has asked for.
struct Counting;

#[expect(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; this one hands everything to the system's"
)]
// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = HELD.try_with(|held| {
            held.set(held.get().saturating_add(layout.size()));
            let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
        });
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(layout.size())));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no corpus", target.name);
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn run(target: &Target, bytes: &[u8], what: &str) {
    HELD.set(0);
    MOST.set(0);
    let started = Instant::now();
    let outcome = std::panic::catch_unwind(|| (target.run)(bytes));
    let (took, most) = (started.elapsed(), MOST.get());
    if outcome.is_err() || took > PATIENCE || most > MEMORY_BYTES_MAX {
        let name = format!("{}-{}", target.name, &blake3::hash(bytes).to_hex()[..16]);
        let kept = std::env::temp_dir().join(name);
        fs::write(&kept, bytes).unwrap();
        panic!("{} of {what}: {took:?}, {most} bytes; the input is in {}", target.name, kept.display());
    }
}

fn all(target: &Target) {
    let seeds = corpus(target);
    for (number, seed) in seeds.iter().enumerate() {
        run(target, seed, &format!("seed {number}"));
    }
    let count = std::env::var("SUSTAIN_FUZZ_MUTATIONS").ok().and_then(|count| count.parse().ok());
    let longest = seeds.iter().map(Vec::len).max().unwrap_or(0) + 1_024;
    for (number, bytes) in Mutations::new(&seeds, 1, longest).take(count.unwrap_or(MUTATIONS)).enumerate() {
        run(target, &bytes, &format!("mutation {number}"));
    }
}

macro_rules! targets {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() {
            all(TARGETS.iter().find(|target| target.name == $name).unwrap());
        })*

        #[test]
        fn no_target_is_forgotten() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($name),*]);
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            let mut found: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
            found.sort();
            let mut names = names;
            names.sort_unstable();
            assert_eq!(found, names, "a folder of the corpus for each target");
        }
    };
}

targets! {
    pack "pack"
    directory "directory"
    block "block"
    manifest "manifest"
    index "index"
    frame "frame"
    pin "pin"
    checked "checked"
    key_file "key-file"
    journal "journal"
    segment "segment"
    sheet "sheet"
    ext4 "ext4"
    nbd "nbd"
    image_header "image-header"
    join "join"
    swim "swim"
    keeper "keeper"
}
