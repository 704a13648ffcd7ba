//! One growing number in memory and on the disk, by which a test tells whether those of a snapshot are of one
//! instant.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::http::Request;
use crate::{PAGE_BYTES, STACK_BYTES, Service};

/// Where the growing number is written, if there is a disk.
const INSTANT_FILE: &str = "/data/instant";
/// What stands before the number in memory, each byte xor 0x55: whoever searches the guest's memory for
/// it finds the number, and not this constant.
const INSTANT_MARKER: [u8; 16] = *b"sustain instant ";
/// Linux's flag for reading from the disk itself, past all caches.
const O_DIRECT: i32 = 0o40_000;

/// The number that is to be the same in memory and on the disk.
pub struct Instantly {
    /// [`INSTANT_MARKER`] and the number, in one piece.
    memory: Box<[u64; 3]>,
    /// Writes before which the disk did not say what memory says.
    mismatches: u64,
    /// Reads and writes that failed.
    errors: u64,
}

impl Instantly {
    pub fn new() -> Self {
        let half = |range: std::ops::Range<usize>| {
            INSTANT_MARKER[range].iter().rev().fold(0, |word, byte| word << 8 | u64::from(byte ^ 0x55))
        };
        Self { memory: Box::new([half(0..8), half(8..16), 0]), mismatches: 0, errors: 0 }
    }

    /// Checks that the disk has the number, then raises it in memory and on the disk.
    fn step(&mut self, file: &File, direct: &File) -> io::Result<()> {
        if read_direct(direct)? != self.memory[2] {
            self.mismatches += 1;
        }
        self.memory[2] += 1;
        // A while in which memory is one ahead, so that snapshots fall into it, too.
        std::thread::sleep(Duration::from_millis(1));
        file.write_all_at(&self.memory[2].to_le_bytes(), 0)?;
        file.sync_all()
    }
}

/// The number on the disk. Such reads take a buffer at a whole page's address.
fn read_direct(direct: &File) -> io::Result<u64> {
    let mut buffer = [0_u8; 2 * PAGE_BYTES];
    let start = buffer.as_ptr().align_offset(PAGE_BYTES);
    direct.read_exact_at(&mut buffer[start..start + PAGE_BYTES], 0)?;
    Ok(buffer[start..start + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

/// Begins, ends or shows the writing of one number to two places.
pub fn set(service: &Arc<Service>, request: &Request<'_>) -> (u16, String) {
    match request.number("run") {
        Some(0) => service.instant_runs.store(false, SeqCst),
        Some(_) if !service.instant_runs.swap(true, SeqCst) => {
            let writer = Arc::clone(service);
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            if thread.spawn(move || write_instants(&writer)).is_err() {
                return (503, "{\"error\":\"no thread to be had\"}".into());
            }
        }
        _ => {}
    }
    let Ok(state) = service.instant.lock() else { return (503, "{}".into()) };
    let disk = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(INSTANT_FILE);
    let disk =
        disk.and_then(|file| read_direct(&file)).map_or("null".to_owned(), |number| number.to_string());
    let (memory, mismatches, errors) = (state.memory[2], state.mismatches, state.errors);
    let running = u8::from(service.instant_runs.load(SeqCst));
    let body = format!(
        "{{\"memory\":{memory},\"disk\":{disk},\"running\":{running},\"mismatches\":{mismatches},\"errors\":{errors}}}"
    );
    (200, body)
}

fn write_instants(service: &Service) {
    let opened = open_instant(service);
    while service.instant_runs.load(SeqCst) {
        if let Ok(mut state) = service.instant.lock() {
            let done = match &opened {
                Ok((file, direct)) => state.step(file, direct),
                Err(_) => Err(io::ErrorKind::NotFound.into()),
            };
            if done.is_err() {
                state.errors += 1;
            }
        }
        // Room for whoever waits for the lock.
        std::thread::sleep(Duration::from_millis(if opened.is_ok() { 1 } else { 100 }));
    }
}

/// The file for writing, with what memory says in it, and the same for reading from the disk itself.
fn open_instant(service: &Service) -> io::Result<(File, File)> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(INSTANT_FILE)?;
    let mut page = [0; PAGE_BYTES];
    if let Ok(state) = service.instant.lock() {
        page[..8].copy_from_slice(&state.memory[2].to_le_bytes());
    }
    file.write_all_at(&page, 0)?;
    file.sync_all()?;
    Ok((file, OpenOptions::new().read(true).custom_flags(O_DIRECT).open(INSTANT_FILE)?))
}
