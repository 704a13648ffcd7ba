//! The guest's service: an HTTP counter that keeps its count in memory only, so that a client can tell a
//! VM that was resumed (same boot id, the count goes on) from one that was booted again.
//!
//! The standard library only: `build` compiles it with plain `rustc`, statically linked.
//!
//! ```text
//! GET /count                   counts one up         {"count":6,"boot_id":"…","uptime_ms":8123}
//! GET /peek                    only looks
//! GET /load?pages=5000&mib=64  writes to that many random pages a second; pages=0 stops
//! GET /instant?run=1           begins to write the same growing number to memory and disk; run=0 stops;
//!                              without it only looks    {"memory":7,"disk":7,"running":1,"mismatches":0,"errors":0}
//! GET /sum?mib=3               a checksum of that MiB of /data/payload, read from the disk itself    {"sum":…}
//! GET /reboot                  starts the machine anew, at once
//! GET /spin                    how much a thread has computed that does nothing else; the first starts it
//! ```

mod http;
mod instant;
mod load;
mod payload;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Head, Request, read_head, respond};
use instant::Instantly;
use load::Load;

/// The port inside the guest.
const PORT: u16 = 8080;
/// Connections served at once; more are answered 503 and closed.
const CONNECTIONS_MAX: usize = 64;
/// A client must have sent its request after this, and must take the answer in this time.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests on one connection, so that nobody holds a place for ever.
const REQUESTS_MAX: usize = 1_000;
/// Stack of a connection's thread: small, the guest has little memory.
const STACK_BYTES: usize = 128 * 1024;
const PAGE_BYTES: usize = 4_096;

/// What all connections share.
struct Service {
    count: AtomicU64,
    boot_id: String,
    started: Instant,
    connections: AtomicUsize,
    load: Mutex<Load>,
    /// Raised at each change of the load, so that the thread of the one before ends.
    load_generation: AtomicU64,
    /// Held by the thread that has the load's buffer.
    load_buffer: Mutex<()>,
    /// Rounds of the thread that computes; 0 before it is started.
    spins: AtomicU64,
    instant: Mutex<Instantly>,
    instant_runs: AtomicBool,
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
        load_buffer: Mutex::new(()),
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

fn answer(service: &Arc<Service>, request: &Request<'_>) -> (u16, String) {
    if request.method != "GET" {
        return (405, "{\"error\":\"only GET\"}".into());
    }
    match request.path {
        "/count" => (200, state(service, service.count.fetch_add(1, SeqCst) + 1)),
        "/peek" => (200, state(service, service.count.load(SeqCst))),
        "/load" => load::set(service, request),
        "/instant" => instant::set(service, request),
        "/spin" => load::spin(service),
        "/sum" => payload::sum(request),
        "/reboot" => reboot(),
        _ => (404, "{\"error\":\"only /count, /peek, /load, /instant, /spin, /sum and /reboot\"}".into()),
    }
}

fn state(service: &Service, count: u64) -> String {
    let uptime_ms = service.started.elapsed().as_millis();
    format!("{{\"count\":{count},\"boot_id\":\"{}\",\"uptime_ms\":{uptime_ms}}}", service.boot_id)
}

/// Has the kernel reset the machine, so that there is an answer only if it does not.
fn reboot() -> (u16, String) {
    let failed = std::fs::write("/proc/sysrq-trigger", "b").err();
    (503, format!("{{\"error\":\"no reboot: {failed:?}\"}}"))
}
