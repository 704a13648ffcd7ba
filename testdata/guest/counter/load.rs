//! Writes to memory at a set rate, and a thread that only computes.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::http::Request;
use crate::{PAGE_BYTES, STACK_BYTES, Service};

/// Most MiB that the load may dirty, and most pages a second.
const LOAD_MIB_MAX: usize = 1_024;
const LOAD_PAGES_MAX: u64 = 1_000_000;
/// Steps of computing that count as one.
const SPIN_ROUND: u32 = 1_000;
/// The load is spread over slices of this length.
const LOAD_SLICE: Duration = Duration::from_millis(10);
#[derive(Clone, Copy, Default)]
pub struct Load {
    pages: u64,
    mib: usize,
}

pub fn set(service: &Arc<Service>, request: &Request<'_>) -> (u16, String) {
    let pages = request.number("pages").unwrap_or(0).min(LOAD_PAGES_MAX);
    let mib =
        usize::try_from(request.number("mib").unwrap_or(64)).unwrap_or(LOAD_MIB_MAX).clamp(1, LOAD_MIB_MAX);
    let load = Load { pages, mib };
    // A poisoned lock can't be: the program is built to abort on a panic.
    if let Ok(mut current) = service.load.lock() {
        *current = load;
        let generation = service.load_generation.fetch_add(1, SeqCst) + 1;
        if pages > 0 {
            let service = Arc::clone(service);
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            if thread.spawn(move || dirty(&service, load, generation)).is_err() {
                return (503, "{\"error\":\"no thread to be had\"}".into());
            }
        }
    }
    (200, format!("{{\"pages\":{pages},\"mib\":{mib}}}"))
}

/// Writes to random pages at the set rate until the load is changed.
fn dirty(service: &Service, load: Load, generation: u64) {
    let goes_on = || service.load_generation.load(SeqCst) == generation;
    // One buffer at a time: two at once may be more than the guest has, and then the kernel ends the service.
    let Ok(_only) = service.load_buffer.lock() else { return };
    if !goes_on() {
        return;
    }
    let bytes = load.mib * 1_024 * 1_024;
    let mut memory: Vec<u8> = Vec::new();
    // Asked for first: a buffer that can't be had must not take the counter down with it.
    if memory.try_reserve_exact(bytes).is_err() {
        return;
    }
    memory.resize(bytes, 0);
    let pages = (bytes / PAGE_BYTES) as u64;
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ generation);
    let started = Instant::now();
    let mut written = 0_u64;
    while goes_on() {
        let due = (started.elapsed().as_secs_f64() * load.pages as f64) as u64;
        // After a pause of the VM the clock may jump: don't catch up more than a second's worth.
        written = written.max(due.saturating_sub(load.pages));
        while written < due && goes_on() {
            let start = (random.next() % pages) as usize * PAGE_BYTES;
            // A changed page differs in a few hundred bytes, as in real programs, not in all of it.
            for word in memory[start..start + 256].chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            written += 1;
        }
        std::thread::sleep(LOAD_SLICE);
    }
    // The compiler may not leave out writes that are never read.
    std::hint::black_box(&memory);
}

/// Starts the computing thread at the first call, and tells how far it is: by how much this grows in a second
/// of the host is what the guest gets done.
pub fn spin(service: &Arc<Service>) -> (u16, String) {
    if service.spins.compare_exchange(0, 1, SeqCst, SeqCst).is_ok() {
        let service = Arc::clone(service);
        let compute = move || {
            let mut random = Random(1);
            loop {
                for _ in 0..SPIN_ROUND {
                    random.next();
                }
                std::hint::black_box(&random);
                service.spins.fetch_add(1, SeqCst);
            }
        };
        if std::thread::Builder::new().stack_size(STACK_BYTES).spawn(compute).is_err() {
            return (503, "{\"error\":\"no thread to be had\"}".into());
        }
    }
    (200, format!("{{\"spins\":{}}}", service.spins.load(SeqCst)))
}

/// Xorshift: good enough to spread writes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
