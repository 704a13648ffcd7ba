//! The guest's service: an HTTP counter that keeps its count in memory only, so that a client can tell a
//! VM that was resumed (same boot id, the count goes on) from one that was booted again.
//!
//! One file, the standard library only: `build` compiles it with plain `rustc`, statically linked.
//!
//! ```text
//! GET /count                   counts one up         {"count":6,"boot_id":"…","uptime_ms":8123}
//! GET /peek                    only looks
//! GET /load?pages=5000&mib=64  writes to that many random pages a second; pages=0 stops
//! GET /instant?run=1           begins to write the same growing number to memory and disk; run=0 stops;
//!                              without it only looks    {"memory":7,"disk":7,"running":1,"mismatches":0,"errors":0}
//! GET /reboot                  starts the machine anew, at once
//! GET /spin                    how much a thread has computed that does nothing else; the first starts it
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The port inside the guest.
const PORT: u16 = 8080;
/// Connections served at once; more are answered 503 and closed.
const CONNECTIONS_MAX: usize = 64;
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A client must have sent its request after this, and must take the answer in this time.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests on one connection, so that nobody holds a place for ever.
const REQUESTS_MAX: usize = 1_000;
/// Stack of a connection's thread: small, the guest has little memory.
const STACK_BYTES: usize = 128 * 1024;
/// Most MiB that the load may dirty, and most pages a second.
const LOAD_MIB_MAX: usize = 1_024;
const LOAD_PAGES_MAX: u64 = 1_000_000;
const PAGE_BYTES: usize = 4_096;
/// Steps of computing that count as one.
const SPIN_ROUND: u32 = 1_000;
/// The load is spread over slices of this length.
const LOAD_SLICE: Duration = Duration::from_millis(10);
/// Where the growing number is written, if there is a disk.
const INSTANT_FILE: &str = "/data/instant";
/// What stands before the number in memory, each byte xor 0x55: whoever searches the guest's memory for
/// it finds the number, and not this constant.
const INSTANT_MARKER: [u8; 16] = *b"sustain instant ";
/// Linux's flag for reading from the disk itself, past all caches.
const O_DIRECT: i32 = 0o40_000;

/// What all connections share.
struct Service {
    count: AtomicU64,
    boot_id: String,
    started: Instant,
    connections: AtomicUsize,
    load: Mutex<Load>,
    /// Raised at each change of the load, so that the thread of the one before ends.
    load_generation: AtomicU64,
    /// Rounds of the thread that computes; 0 before it is started.
    spins: AtomicU64,
    instant: Mutex<Instantly>,
    instant_runs: AtomicBool,
}

/// The number that is to be the same in memory and on the disk.
struct Instantly {
    /// [`INSTANT_MARKER`] and the number, in one piece.
    memory: Box<[u64; 3]>,
    /// Writes before which the disk did not say what memory says.
    mismatches: u64,
    /// Reads and writes that failed.
    errors: u64,
}

impl Instantly {
    fn new() -> Self {
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

#[derive(Clone, Copy, Default)]
struct Load {
    pages: u64,
    mib: usize,
}

fn main() -> io::Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let service = Arc::new(Service {
        count: AtomicU64::new(0),
        boot_id: boot_id.chars().filter(|c| c.is_ascii_hexdigit() || *c == '-').collect(),
        started: Instant::now(),
        connections: AtomicUsize::new(0),
        load: Mutex::new(Load::default()),
        load_generation: AtomicU64::new(0),
        instant: Mutex::new(Instantly::new()),
        instant_runs: AtomicBool::new(false),
        spins: AtomicU64::new(0),
    });
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("counter ready on port {PORT}, boot id {}", service.boot_id);
    loop {
        match listener.accept() {
            Ok((stream, _)) => admit(&service, stream),
            // No descriptor or memory left, or the client is gone already: serve on a little later.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Gives the connection a thread, if there is room for one more.
fn admit(service: &Arc<Service>, mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(CLIENT_TIMEOUT));
    let _ = stream.set_write_timeout(Some(CLIENT_TIMEOUT));
    let _ = stream.set_nodelay(true);
    let place = Place::take(service);
    if service.connections.load(SeqCst) > CONNECTIONS_MAX {
        let _ = respond(&mut stream, 503, "{\"error\":\"too many connections\"}", false);
        return;
    }
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    // If no thread can be had the closure is dropped, and with it the connection and its place.
    let _ = thread.spawn(move || {
        let _ = serve(&place.0, &mut stream);
        drop(place);
    });
}

/// A counted connection; counted off however its thread ends.
struct Place(Arc<Service>);

impl Place {
    fn take(service: &Arc<Service>) -> Self {
        service.connections.fetch_add(1, SeqCst);
        Self(Arc::clone(service))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, SeqCst);
    }
}

fn serve(service: &Arc<Service>, stream: &mut TcpStream) -> io::Result<()> {
    let mut pending = Vec::new();
    for served in 1..=REQUESTS_MAX {
        let head = match read_head(stream, &mut pending)? {
            Head::Whole(head) => head,
            Head::Closed => return Ok(()),
            Head::TooLong => return respond(stream, 431, "{\"error\":\"request too long\"}", false),
        };
        let Some(request) = Request::parse(&head) else {
            return respond(stream, 400, "{\"error\":\"not a request\"}", false);
        };
        let keep = request.keep_alive && served < REQUESTS_MAX;
        let (status, body) = answer(service, &request);
        respond(stream, status, &body, keep)?;
        if !keep {
            return Ok(());
        }
    }
    Ok(())
}

enum Head {
    Whole(String),
    Closed,
    TooLong,
}

/// Reads up to the empty line; what follows stays in `pending` for the next request. The whole head has
/// to arrive within one time-out, so that a client can't hold a place by sending a byte at a time.
fn read_head(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<Head> {
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    let mut buffer = [0_u8; 1_024];
    loop {
        if let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&pending[..end]).into_owned();
            pending.drain(..end + 4);
            return Ok(Head::Whole(head));
        }
        if pending.len() > HEAD_BYTES_MAX {
            return Ok(Head::TooLong);
        }
        if Instant::now() >= deadline {
            return Ok(Head::Closed);
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(Head::Closed),
            bytes => pending.extend_from_slice(&buffer[..bytes]),
        }
    }
}

struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    keep_alive: bool,
}

impl<'a> Request<'a> {
    fn parse(head: &'a str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || !target.starts_with('/') || !version.starts_with("HTTP/1.") {
            return None;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut keep_alive = version != "HTTP/1.0";
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("connection") {
                keep_alive = value.eq_ignore_ascii_case("keep-alive");
            }
            // Nothing here takes a body; one that is announced would be read as the next request.
            let has_body = name.eq_ignore_ascii_case("content-length") && value != "0";
            if has_body || name.eq_ignore_ascii_case("transfer-encoding") {
                keep_alive = false;
            }
        }
        Some(Self { method, path, query, keep_alive })
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }
}

fn answer(service: &Arc<Service>, request: &Request<'_>) -> (u16, String) {
    if request.method != "GET" {
        return (405, "{\"error\":\"only GET\"}".into());
    }
    match request.path {
        "/count" => (200, state(service, service.count.fetch_add(1, SeqCst) + 1)),
        "/peek" => (200, state(service, service.count.load(SeqCst))),
        "/load" => set_load(service, request),
        "/instant" => instant(service, request),
        "/spin" => spin(service),
        "/reboot" => reboot(),
        _ => (404, "{\"error\":\"only /count, /peek, /load, /instant, /spin and /reboot\"}".into()),
    }
}

fn state(service: &Service, count: u64) -> String {
    let uptime_ms = service.started.elapsed().as_millis();
    format!("{{\"count\":{count},\"boot_id\":\"{}\",\"uptime_ms\":{uptime_ms}}}", service.boot_id)
}

fn set_load(service: &Arc<Service>, request: &Request<'_>) -> (u16, String) {
    let pages = request.number("pages").unwrap_or(0).min(LOAD_PAGES_MAX);
    let mib = usize::try_from(request.number("mib").unwrap_or(64)).unwrap_or(LOAD_MIB_MAX).clamp(1, LOAD_MIB_MAX);
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

/// Begins, ends or shows the writing of one number to two places.
fn instant(service: &Arc<Service>, request: &Request<'_>) -> (u16, String) {
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
    let disk = disk.and_then(|file| read_direct(&file)).map_or("null".to_owned(), |number| number.to_string());
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

/// Writes to random pages at the set rate until the load is changed.
fn dirty(service: &Service, load: Load, generation: u64) {
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
    while service.load_generation.load(SeqCst) == generation {
        let due = (started.elapsed().as_secs_f64() * load.pages as f64) as u64;
        // After a pause of the VM the clock may jump: don't catch up more than a second's worth.
        written = written.max(due.saturating_sub(load.pages));
        while written < due {
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

/// Has the kernel reset the machine, so that there is an answer only if it does not.
fn reboot() -> (u16, String) {
    let failed = std::fs::write("/proc/sysrq-trigger", "b").err();
    (503, format!("{{\"error\":\"no reboot: {failed:?}\"}}"))
}

/// Starts the computing thread at the first call, and tells how far it is: by how much this grows in a second
/// of the host is what the guest gets done.
fn spin(service: &Arc<Service>) -> (u16, String) {
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

fn respond(stream: &mut TcpStream, status: u16, body: &str, keep_alive: bool) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let bytes = body.len();
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\
         Cache-Control: no-store\r\nConnection: {connection}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes())
}
