//! A rebase beside a VM that is saved, with a VM that is nothing but memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId, Term, TermOrigin};
use sustain_store::{
    DirectoryTarget, NoProgress, RebasePolicy, RegionSource, Retention, Store, StoreOptions,
};
use sustain_vmdriver::{
    GuestAgent, GuestError, PortForward, SnapshotError, SnapshotScope, SnapshotSink, SnapshotTimings,
    StopError, Vm, VmState,
};

use super::vm_running::{Running, Saving};
use super::vm_thread::VmNote;

/// What each snapshot says it took after its pause.
const AFTER: Duration = Duration::from_millis(700);

/// A VM's memory, one page of which changes from snapshot to snapshot.
struct Memory {
    bytes: Vec<u8>,
    saved: usize,
}

impl RegionSource for Memory {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}

impl Vm for Memory {
    fn pid(&self) -> u32 {
        0
    }

    fn forwards(&self) -> &[PortForward] {
        &[]
    }

    fn state(&mut self) -> VmState {
        VmState::Running
    }

    fn snapshot(
        &mut self,
        _: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<SnapshotTimings, SnapshotError> {
        self.saved += 1;
        let at = self.saved * 4_096 % self.bytes.len();
        self.bytes[at] ^= 0xFF;
        let page = at as u64..at as u64 + 4_096;
        let changed = std::slice::from_ref(&page);
        let changed = (self.saved > 1).then_some(changed);
        let ram = RegionName::new("ram").unwrap();
        sink.region(&ram, self, changed).map_err(|source| SnapshotError::Sink { region: ram, source })?;
        Ok(SnapshotTimings { after_ms: AFTER.as_secs_f64() * 1e3, ..SnapshotTimings::default() })
    }

    fn committed(&mut self) {}

    fn guest_agent(&mut self) -> Result<Arc<dyn GuestAgent>, GuestError> {
        Err(GuestError::Unsupported)
    }

    fn stop(self: Box<Self>) -> Result<(), StopError> {
        Ok(())
    }
}

struct Bench {
    folder: tempfile::TempDir,
    store: Store,
}

fn term(counter: u64) -> Term {
    Term { counter, node: NodeId::from_bytes([1; 32]), nonce: 1 }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        Self { folder, store }
    }

    fn running(&self, bytes: usize, rebase_after: u32) -> Running {
        self.reign(1, None, bytes, rebase_after)
    }

    /// Of this reign, and restored from a snapshot of the one before if there is one.
    fn reign(
        &self,
        reign: u64,
        parent: Option<(SnapshotId, u64)>,
        bytes: usize,
        rebase_after: u32,
    ) -> Running {
        // xorshift64*, Vigna 2016, a third of it: it compresses as a guest's memory does.
        let mut state = 1_u64;
        let mut word = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) & 0xFF_00FF_0000_FF00).to_le_bytes()
        };
        let bytes = (0..bytes / 8).flat_map(|_| word()).collect();
        let origin = parent.map(|(_, seq)| TermOrigin { parent: term(reign - 1), seq });
        let service = ServiceName::new("memory").unwrap();
        let saving = Saving {
            service,
            store: self.store.clone(),
            interval: Duration::from_millis(1),
            policy: RebasePolicy { deltas: rebase_after, ..RebasePolicy::default() },
            retention: Retention::NOTHING,
            cancelled: std::sync::Arc::default(),
        };
        let parent = parent.map(|(parent, _)| parent);
        Running::new(Box::new(Memory { bytes, saved: 0 }), term(reign), origin, parent, saving, None)
    }

    /// Takes a snapshot, which is durable at once.
    fn save(&self, running: &mut Running) -> Result<SnapshotId, String> {
        let mut notes = Vec::new();
        running.take_snapshot(&mut notes)?;
        let taken = notes.into_iter().find_map(|note| match note {
            VmNote::Snapshot(note) => Some(note.report.snapshot),
            _ => None,
        });
        let taken = taken.unwrap();
        self.store.mark_durable(taken, 1).unwrap();
        Ok(taken)
    }

    /// Looks whether a rebase is done, and returns its base and the running VM's parent.
    fn poll(&self, running: &mut Running) -> Option<(SnapshotId, SnapshotId)> {
        let mut notes = Vec::new();
        running.finish_rebase(&mut notes);
        notes.into_iter().find_map(|note| match note {
            VmNote::Rebased { base, newest, .. } => Some((base, newest)),
            VmNote::Problem(what) => panic!("{what}"),
            _ => None,
        })
    }

    fn wait(&self, running: &mut Running) -> (SnapshotId, SnapshotId) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(rebased) = self.poll(running) {
                return rebased;
            }
            assert!(Instant::now() < until, "the rebase never ends");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A rebase read all of a snapshot on the VM's thread, which took no other snapshot meanwhile.
#[test]
fn snapshots_go_on_while_a_rebase_is_prepared_and_follow_it() {
    let bench = Bench::new();
    let mut running = bench.running(4 << 20, 3);
    let first = bench.save(&mut running).unwrap();
    // The third one of all begins the rebase, when the second is durable; the others come while it goes on.
    let taken: Vec<_> = (0..5).map(|_| bench.save(&mut running).unwrap()).collect();
    let (base, newest) = bench.wait(&mut running);
    assert_eq!(bench.store.resolve(&taken[0].to_string()).unwrap(), base);
    assert_eq!(bench.store.resolve(&taken[4].to_string()).unwrap(), newest);
    assert!(bench.store.resolve(&first.to_string()).is_err(), "its generation is gone");
    let last = bench.save(&mut running).unwrap();
    let info = bench.store.snapshots(None).unwrap().pop().unwrap();
    assert_eq!((info.id, info.base, &info.parents[..]), (last, Some(base), &[newest][..]));
    let to = bench.folder.path().join("out");
    bench.store.restore(last, &DirectoryTarget::new(&to), &NoProgress).unwrap();
    assert_eq!(std::fs::metadata(to.join("ram")).unwrap().len(), 4 << 20);
}

/// A rebase dropped all that was older than its base, whatever the service was to keep.
#[test]
fn retention_outlives_the_generations_of_a_running_vm() {
    let bench = Bench::new();
    let mut running = bench.running(1 << 20, 3);
    let first = bench.save(&mut running).unwrap();
    running.keep(Retention { keep_last: 4, ..Retention::NOTHING });
    let mut taken = vec![first];
    for _ in 0..2 {
        taken.extend((0..3).map(|_| bench.save(&mut running).unwrap()));
        let (base, _) = bench.wait(&mut running);
        let list = bench.store.snapshots(None).unwrap();
        assert!(list.iter().all(|info| info.id == base || info.base == Some(base)), "{list:?}");
    }
    let list = bench.store.snapshots(None).unwrap();
    assert!((4..taken.len()).contains(&list.len()), "{list:?}");
    for id in taken.iter().rev().take(4) {
        assert!(bench.store.resolve(&id.to_string()).is_ok());
    }
    assert!(bench.store.resolve(&first.to_string()).is_err());
}

/// Each take-over began to count anew: under a server that changed every few minutes no generation ever ended, until
/// the store refused the next snapshot for its number of packs.
#[test]
fn a_generation_ends_though_no_reign_lasts_for_all_of_it() {
    let bench = Bench::new();
    let mut running = bench.running(1 << 20, 5);
    let mut newest = None;
    for reign in 2..=3 {
        // A base and a delta, and then two deltas.
        let taken: Vec<_> = (0..2).map(|_| bench.save(&mut running).unwrap()).collect();
        assert_eq!(bench.poll(&mut running), None);
        running.stop().unwrap();
        newest = Some((taken[1], 2 * (reign - 1)));
        running = bench.reign(reign, newest, 1 << 20, 5);
    }
    // Four are there, three of which are deltas: these are the fourth and the fifth.
    for _ in 0..2 {
        bench.save(&mut running).unwrap();
    }
    let (base, _) = bench.wait(&mut running);
    assert_ne!(Some(base), newest.map(|(parent, _)| parent));
}

/// The guest was told when its snapshot was stored, seconds after it was taken where much had changed.
#[test]
fn a_snapshot_is_as_old_as_its_pause_and_not_as_its_commit() {
    let bench = Bench::new();
    let mut running = bench.running(1 << 20, 100);
    let (begun, mut notes) = (Instant::now(), Vec::new());
    running.take_snapshot(&mut notes).unwrap();
    let Some(VmNote::Snapshot(note)) = notes.first() else { panic!("no snapshot") };
    assert!(note.resumed_at + AFTER >= begun && note.resumed_at + AFTER <= Instant::now());
}

/// The VM is stopped while a rebase is under way: another one must be possible at once, and nothing be left.
#[test]
fn a_rebase_ends_with_its_vm() {
    let bench = Bench::new();
    let mut running = bench.running(64 << 20, 2);
    let taken: Vec<_> = (0..3).map(|_| bench.save(&mut running).unwrap()).collect();
    running.stop().unwrap();
    assert_eq!(bench.store.resolve(&taken[0].to_string()).unwrap(), taken[0], "nothing was dropped");
    // A folder for each process, and this is the only one.
    let folders = std::fs::read_dir(bench.folder.path().join("store/tmp")).unwrap();
    let temporaries = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    assert_eq!(temporaries.count(), 0);
    bench.store.rebase(&ServiceName::new("memory").unwrap(), None).unwrap();
}

/// What a rebase costs the VM that it is for: SUSTAIN_REBASE_MIB of memory, a snapshot each 100 ms. First the VM's
/// thread waits for all of it.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "what it shows is its purpose")]
fn gaps_around_a_rebase() {
    let mib: usize = std::env::var("SUSTAIN_REBASE_MIB").map_or(512, |text| text.parse().unwrap());
    for beside in [false, true] {
        let bench = Bench::new();
        let mut running = bench.running(mib << 20, 10);
        bench.save(&mut running).unwrap();
        let (mut last, mut longest, mut commit) = (Instant::now(), [Duration::ZERO; 2], Duration::ZERO);
        for number in 2..40 {
            bench.save(&mut running).unwrap();
            // Those before it starts show what is usual.
            let longest = &mut longest[usize::from(number > 10)];
            *longest = last.elapsed().max(*longest);
            last = Instant::now();
            if number == 10 && !beside {
                bench.wait(&mut running);
            }
            let polled = Instant::now();
            if bench.poll(&mut running).is_some() {
                commit = polled.elapsed();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("{mib} MiB, beside: {beside}: longest gap before and after {longest:?}, commit {commit:?}");
    }
}
