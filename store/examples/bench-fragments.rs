//! Measures fragments: cutting packs, keeping them, building packs, and opening many, beside what the machine does
//! alone. `make bench-fragments`. MB/s of the packs' bytes unless said otherwise, the best of some turns.
//! Behind it what a GB takes of the processors, which is the same on a machine that is busy.

#![allow(clippy::print_stdout, reason = "an example's results go there")]

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Instant;

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{
    Cut, FragmentId, GroupHasher, GroupList, NodeId, PackId, PackRef, RegionName, ServiceName, Sheet,
};
use sustain_store::disk::{Disk, RealDisk};
use sustain_store::{
    Fragments, Pace, PushLineage, PushRequest, RegionSource, Store, StoreOptions, StoredSheet,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const CUT: Cut = Cut { needed: 6, total: 24, extent_bytes: 6 * GROUP_BYTES as u32 };
const DATA_BYTES: usize = 96 << 20;
const TURNS: usize = 3;
const MANY: u32 = 100_000;

struct Noise(u64);

impl RegionSource for Noise {
    fn bytes(&self) -> u64 {
        DATA_BYTES as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut reader = blake3::Hasher::new().update(&self.0.to_le_bytes()).finalize_xof();
        reader.set_position(offset);
        reader.fill(buf);
        Ok(())
    }
}

/// What the best turn took: seconds, and seconds of the processors'.
#[derive(Clone, Copy)]
struct Taken {
    seconds: f64,
    busy: f64,
}

fn busy() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn best(mut turn: impl FnMut() -> Outcome<()>) -> Outcome<Taken> {
    let mut best = Taken { seconds: f64::MAX, busy: f64::MAX };
    for _ in 0..TURNS {
        let (started, before) = (Instant::now(), busy());
        turn()?;
        best.seconds = best.seconds.min(started.elapsed().as_secs_f64());
        best.busy = best.busy.min(busy() - before);
    }
    Ok(best)
}

fn say(what: &str, bytes: u64, taken: Taken) {
    let (rate, busy) = (bytes as f64 / taken.seconds / 1e6, taken.busy / (bytes as f64 / 1e9));
    println!("{what:<62} {rate:>7.0} MB/s {busy:>7.2} s of a core each GB");
}

fn push(store: &Store) -> Outcome<Vec<PackRef>> {
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([1; 32]), nonce: 1 };
    let service = ServiceName::new("bench")?;
    let mut push = store.begin_push(PushRequest { service, lineage, time_ms: 1 })?;
    push.ingest(&RegionName::new("ram")?, &Noise(1))?;
    Ok(push.commit()?.packs)
}

/// What the machine does alone.
fn alone(dir: &Path) -> Outcome<()> {
    let from = vec![7_u8; DATA_BYTES];
    let mut to = vec![0_u8; DATA_BYTES];
    say(
        "memory: copy, one core",
        DATA_BYTES as u64,
        best(|| {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&to);
            Ok(())
        })?,
    );
    say(
        "BLAKE3, one core",
        DATA_BYTES as u64,
        best(|| {
            std::hint::black_box(blake3::hash(&from));
            Ok(())
        })?,
    );
    let path = dir.join("raw");
    say(
        "disk: write and one sync",
        DATA_BYTES as u64,
        best(|| {
            let file = RealDisk.create(&path)?;
            for (number, part) in from.chunks(1 << 20).enumerate() {
                file.write_at((number as u64) << 20, part)?;
            }
            file.sync()?;
            Ok(RealDisk.remove(&path)?)
        })?,
    );
    Ok(())
}

/// A sheet, and all fragments that it names.
type Cutting = (StoredSheet, Vec<Vec<u8>>);

/// All fragments of all packs, with their sheets.
fn cut(store: &Store, packs: &[PackRef], pace: Pace) -> Outcome<Vec<Cutting>> {
    let all: Vec<u8> = (0..CUT.total).collect();
    let mut cut = Vec::new();
    for pack in packs {
        let bytes = CUT.fragment_bytes(pack.bytes) as usize;
        let mut fragments = vec![Vec::with_capacity(bytes); usize::from(CUT.total)];
        let mut sink = |index: u8, bytes: &[u8]| {
            fragments[usize::from(index)].extend_from_slice(bytes);
            Ok(())
        };
        let sheet = store.cut_pack(&ServiceName::new("bench")?, pack.id, CUT, &all, pace, &mut sink)?;
        cut.push((StoredSheet::unsigned(sheet)?, fragments));
    }
    Ok(cut)
}

fn cutting(store: &Store, packs: &[PackRef], sheets: &[StoredSheet]) -> Outcome<()> {
    let bytes = packs.iter().map(|pack| pack.bytes).sum();
    let service = ServiceName::new("bench")?;
    for (pace, how) in [(Pace::Full, "all cores"), (Pace::Behind, "one core fewer")] {
        let taken = best(|| {
            for pack in packs {
                store.cut_pack(&service, pack.id, CUT, &[], pace, &mut |_, _| Ok(()))?;
            }
            Ok(())
        })?;
        say(&format!("cut: 24 of 6, all hashed, {how}"), bytes, taken);
    }
    for index in [0, 20] {
        let taken = best(|| {
            for sheet in sheets {
                store.make_fragments(&sheet.sheet, &[index], Pace::Full, &mut |_, _| Ok(()))?;
            }
            Ok(())
        })?;
        say(&format!("cut: fragment {index} alone"), bytes, taken);
    }
    let mut buffer = vec![0; GROUP_BYTES as usize];
    let taken = best(|| {
        for pack in packs {
            let reader = store.open_cut(pack.id, CUT, 20)?;
            let mut at = 0;
            while at < reader.bytes() {
                let part = (reader.bytes() - at).min(GROUP_BYTES);
                reader.read_at(at, &mut buffer[..part as usize])?;
                at += part;
            }
        }
        Ok(())
    })?;
    say("cut: fragment 20 when it is read, group by group, one core", bytes, taken);
    Ok(())
}

fn keeping(dir: &Path, cut: &[Cutting]) -> Outcome<()> {
    let bytes: u64 = cut.iter().flat_map(|(_, fragments)| fragments).map(|bytes| bytes.len() as u64).sum();
    for (each, what) in
        [(false, "put: bytes of fragments, one sync"), (true, "put: a sync for each fragment")]
    {
        let taken = best(|| {
            let store = open(&dir.join("keep"))?;
            let fragments = store.fragments()?;
            let mut appended = Vec::new();
            for (sheet, all) in cut {
                for (index, bytes) in (0..).zip(all) {
                    appended.push(fragments.put(sheet, index, bytes)?);
                    if each {
                        fragments.sync(&appended)?;
                        appended.clear();
                    }
                }
            }
            fragments.sync(&appended)?;
            drop((fragments, store));
            Ok(std::fs::remove_dir_all(dir.join("keep"))?)
        })?;
        say(what, bytes, taken);
    }
    Ok(())
}

fn list(bytes: &[u8]) -> GroupList {
    let mut hasher = GroupHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Builds all packs of these fragments, as they would come over a wire.
fn build(fragments: &Fragments, cut: &[Cutting], lists: &[Vec<GroupList>], indices: &[u8]) -> Outcome<()> {
    for ((sheet, all), lists) in cut.iter().zip(lists) {
        let builder = fragments.build_pack(&sheet.sheet)?;
        for index in indices {
            builder.add(*index, lists[usize::from(*index)].clone())?;
        }
        let groups = all[0].len().div_ceil(GROUP_BYTES as usize);
        for group in 0..groups {
            for index in indices {
                let bytes = all[usize::from(*index)].chunks(GROUP_BYTES as usize).nth(group);
                builder.write(*index, group, bytes.unwrap_or_default())?;
            }
        }
        builder.finish()?;
    }
    Ok(())
}

fn building(dir: &Path, store: &Store, cut: &[Cutting]) -> Outcome<()> {
    let bytes = cut.iter().map(|(sheet, _)| sheet.sheet.pack.bytes).sum();
    let taken = best(|| {
        let to = open(&dir.join("build"))?;
        for (sheet, _) in cut {
            let PackRef { id, bytes } = sheet.sheet.pack;
            let (reader, mut receiver) = (store.read_pack(id)?, to.receive_pack(id, bytes)?);
            let mut buffer = vec![0; 1 << 20];
            while receiver.written() < bytes {
                let part = (bytes - receiver.written()).min(1 << 20) as usize;
                reader.read_at(receiver.written(), &mut buffer[..part])?;
                receiver.write(&buffer[..part])?;
            }
            receiver.finish()?;
        }
        drop(to);
        Ok(std::fs::remove_dir_all(dir.join("build"))?)
    })?;
    say("receive: whole packs, for comparison", bytes, taken);
    let lists: Vec<Vec<GroupList>> =
        cut.iter().map(|(_, all)| all.iter().map(|bytes| list(bytes)).collect()).collect();
    let first: Vec<u8> = (0..6).collect();
    let mixed: Vec<u8> = vec![1, 4, 5, 11, 17, 23];
    let last: Vec<u8> = (18..24).collect();
    for (indices, what) in
        [(first, "the pack's own 6"), (mixed, "3 of these and 3 others"), (last, "6 others")]
    {
        let taken = best(|| {
            let to = open(&dir.join("build"))?;
            let fragments = to.fragments()?;
            build(&fragments, cut, &lists, &indices)?;
            drop((fragments, to));
            Ok(std::fs::remove_dir_all(dir.join("build"))?)
        })?;
        say(&format!("build packs: from {what}"), bytes, taken);
    }
    Ok(())
}

/// Opening a store with very many fragments.
fn opening(dir: &Path) -> Outcome<()> {
    let store = open(&dir.join("many"))?;
    let fragments = store.fragments()?;
    let mut appended = Vec::new();
    let bytes = vec![5; 4 << 10];
    for number in 0..MANY {
        let id = PackId::of(&number.to_le_bytes());
        let pack = PackRef { id, bytes: 6 * bytes.len() as u64 };
        let names = vec![FragmentId::of(&bytes); usize::from(CUT.total)];
        let sheet = Sheet { service: ServiceName::new("bench")?, pack, cut: CUT, fragments: names };
        appended.push(fragments.put(&StoredSheet::unsigned(sheet)?, (number % 24) as u8, &bytes)?);
        if appended.len() == 1_000 {
            fragments.sync(&appended)?;
            appended.clear();
        }
    }
    drop((fragments, store));
    let store = open(&dir.join("many"))?;
    let started = Instant::now();
    let fragments = store.fragments()?;
    println!("{:<62} {:>7.2} s", format!("open {MANY} fragments"), started.elapsed().as_secs_f64());
    drop((fragments, store));
    Ok(std::fs::remove_dir_all(dir.join("many"))?)
}

fn open(dir: &Path) -> Outcome<Store> {
    Ok(Store::open(dir, StoreOptions { create: true, ..StoreOptions::default() })?)
}

fn main() -> Outcome<()> {
    let scratch = std::env::args_os().nth(1).unwrap_or_else(|| std::env::temp_dir().into_os_string());
    let dir = tempfile::tempdir_in(scratch)?;
    alone(dir.path())?;
    let store = open(&dir.path().join("store"))?;
    let packs = push(&store)?;
    let cut = cut(&store, &packs, Pace::Full)?;
    let sheets: Vec<StoredSheet> = cut.iter().map(|(sheet, _)| sheet.clone()).collect();
    cutting(&store, &packs, &sheets)?;
    keeping(dir.path(), &cut)?;
    building(dir.path(), &store, &cut)?;
    opening(dir.path())
}
