//! Fetching on demand: once for many, again after a failure, and without standing in a reader's way.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::*;

const CHUNK: u64 = sustain_proto::limits::CHUNK_BYTES as u64;
/// The last chunk is short.
const BYTES: u64 = 9 * CHUNK + 512;

/// Counts what it is asked for; fails or waits as told.
#[derive(Default)]
struct Source {
    asked: Mutex<Vec<u64>>,
    fails: AtomicBool,
    /// The others' prefetch is told to come again.
    near: Option<u64>,
    gate: Option<(SyncSender<u64>, Mutex<Receiver<()>>)>,
}

impl BlockSource for Arc<Source> {
    fn bytes(&self) -> u64 {
        BYTES
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        lock(&self.asked).push(chunk);
        if let Some((sender, gate)) = &self.gate {
            sender.send(chunk).unwrap();
            lock(gate).recv().unwrap();
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(Unavailable::new("no neighbour has it"));
        }
        if chunk == 3 {
            return Ok(ChunkContent::Zero);
        }
        buffer.fill(chunk as u8 + 1);
        Ok(ChunkContent::Data)
    }

    fn prefetch_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<Option<ChunkContent>, Unavailable> {
        if self.near.is_some_and(|near| chunk >= near) {
            Ok(None)
        } else {
            self.read_chunk(chunk, buffer).map(Some)
        }
    }
}

fn open(folder: &Path, source: &Arc<Source>) -> Lazy {
    Lazy::open(folder, BYTES, Box::new(Arc::clone(source)), Duration::from_millis(50)).unwrap()
}

fn make(source: Source) -> (tempfile::TempDir, Arc<Source>, Lazy) {
    let folder = tempfile::tempdir().unwrap();
    Layer::create(folder.path(), CACHE, cache_geometry(BYTES), true).unwrap();
    let source = Arc::new(source);
    let lazy = open(folder.path(), &source);
    (folder, source, lazy)
}

#[test]
fn each_chunk_is_fetched_once_and_kept_across_a_restart() {
    let (folder, source, lazy) = make(Source::default());
    let mut buffer = vec![9; 2 * CHUNK as usize];
    lazy.read(2 * CHUNK + 5, &mut buffer).unwrap();
    let (two, rest) = buffer.split_at(CHUNK as usize - 5);
    let (three, four) = rest.split_at(CHUNK as usize);
    assert!(two.iter().all(|b| *b == 3) && three.iter().all(|b| *b == 0) && four == [5; 5]);
    assert_eq!((lazy.progress(), lazy.is_zero_at(3 * CHUNK)), ((3, 10), true));
    drop(lazy);
    let lazy = open(folder.path(), &source);
    assert_eq!(lazy.progress(), (3, 10));
    lazy.prefetch(&AtomicBool::new(false));
    assert_eq!(lazy.progress(), (10, 10));
    source.fails.store(true, Ordering::SeqCst);
    let mut last = [0; 512];
    lazy.read(9 * CHUNK, &mut last).unwrap();
    assert_eq!(last, [10; 512]);
    assert_eq!(*lock(&source.asked), [2, 3, 4, 0, 1, 5, 6, 7, 8, 9]);
}

#[test]
fn what_is_not_to_be_had_fails_after_a_while_and_comes_later() {
    let (_folder, source, lazy) = make(Source::default());
    source.fails.store(true, Ordering::SeqCst);
    let error = lazy.read(0, &mut [0]).unwrap_err();
    assert!(error.to_string().contains("no neighbour has it"), "{error}");
    assert!(lazy.trouble().is_some());
    source.fails.store(false, Ordering::SeqCst);
    let mut byte = [0];
    lazy.read(0, &mut byte).unwrap();
    assert_eq!((byte, lazy.trouble()), ([1], None));
}

#[test]
fn readers_of_one_chunk_share_one_fetch() {
    let (sender, asked) = sync_channel(8);
    let (open_gate, gate) = sync_channel(8);
    let (_folder, source, lazy) =
        make(Source { gate: Some((sender, Mutex::new(gate))), ..Source::default() });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut byte = [0];
                lazy.read(7 * CHUNK, &mut byte).unwrap();
                assert_eq!(byte, [8]);
            });
        }
        assert_eq!(asked.recv().unwrap(), 7);
        // All four wait, one of them for the source.
        while lock(&lazy.waits).since.len() < 4 {
            std::thread::yield_now();
        }
        assert!(lazy.waiting().is_some());
        open_gate.send(()).unwrap();
    });
    assert_eq!((lock(&source.asked).as_slice(), lazy.waiting()), ([7].as_slice(), None));
}

#[test]
fn prefetch_stands_back_while_a_reader_waits() {
    let (sender, asked) = sync_channel(16);
    let (open_gate, gate) = sync_channel(16);
    let (_folder, source, lazy) =
        make(Source { gate: Some((sender, Mutex::new(gate))), ..Source::default() });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| lazy.read(8 * CHUNK, &mut [0]).unwrap());
        assert_eq!(asked.recv().unwrap(), 8);
        scope.spawn(|| lazy.prefetch(&stop));
        assert!(asked.recv_timeout(Duration::from_millis(50)).is_err(), "it asks while a reader waits");
        for _ in 0..10 {
            open_gate.send(()).unwrap();
        }
    });
    assert_eq!(*lock(&source.asked), [8, 0, 1, 2, 3, 4, 5, 6, 7, 9]);
}

/// A prefetch that asked neighbours for one chunk after the other stood in the way of what a guest waited for.
#[test]
fn prefetch_waits_for_what_is_on_its_way_and_a_reader_does_not() {
    let (_folder, source, lazy) = make(Source { near: Some(5), ..Source::default() });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| lazy.prefetch(&stop));
        while lazy.progress().0 < 5 {
            std::thread::yield_now();
        }
        let mut byte = [0];
        lazy.read(7 * CHUNK, &mut byte).unwrap();
        assert_eq!((byte, lazy.progress(), lazy.trouble()), ([8], (6, 10), None));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(*lock(&source.asked), [0, 1, 2, 3, 4, 7]);
}
