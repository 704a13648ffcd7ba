//! The client: counts through a node's port, as any user of the service would, and remembers every answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Deserialize;
use sustain_node::clock::wall_ms;

/// How long an answer may take. A node holds a client while there is no server; asking anew costs nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two requests.
const PACE: Duration = Duration::from_millis(20);

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4_096;

/// What the service says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Answer {
    /// Requests counted so far.
    pub(crate) count: u64,
    /// The guest kernel's boot id.
    pub(crate) boot_id: String,
}

/// An answer and when it was had.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    /// Wall clock before the request.
    pub(crate) asked_ms: u64,
    /// Wall clock after the answer.
    pub(crate) answered_ms: u64,
    /// The answer.
    pub(crate) answer: Answer,
}

/// What the client has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visits {
    /// Answers before the outage, in order.
    pub(crate) before: Vec<Visit>,
    /// The first answer after it: a look that counts nothing.
    pub(crate) look: Option<Visit>,
    /// The answer to the next request that counts.
    pub(crate) after: Option<Visit>,
    /// Failed requests.
    pub(crate) failures: u64,
}

struct Shared {
    visits: Mutex<Visits>,
    outage: AtomicBool,
    lost: AtomicBool,
    stop: AtomicBool,
}

/// A client at work.
pub(crate) struct Visitor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Visitor {
    /// Starts counting at this address.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            visits: Mutex::default(),
            outage: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let work = shared.clone();
        let thread =
            thread::Builder::new().name("client".to_owned()).spawn(move || visit(&work, address)).ok();
        Self { shared, thread }
    }

    fn visits(&self) -> std::sync::MutexGuard<'_, Visits> {
        self.shared.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers so far.
    pub(crate) fn answers(&self) -> usize {
        self.visits().before.len()
    }

    /// From now on the first failed request begins the outage.
    pub(crate) fn expect_outage(&self) {
        self.shared.outage.store(true, Ordering::Release);
    }

    /// The server is gone: whatever is asked from now on is answered by another. A node may hold a request until
    /// then, so that none fails.
    pub(crate) fn server_is_lost(&self) {
        self.shared.lost.store(true, Ordering::Release);
    }

    /// Whether the count has gone on after the outage.
    pub(crate) fn went_on(&self) -> bool {
        self.visits().after.is_some()
    }

    /// Ends the client.
    pub(crate) fn stop(mut self) -> Visits {
        self.end();
        self.visits().clone()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic shows as missing answers.
            let _ = thread.join();
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.end();
    }
}

fn visit(shared: &Shared, address: SocketAddr) {
    let mut down = false;
    while !shared.stop.load(Ordering::Acquire) {
        let asked_ms = wall_ms();
        let outage = shared.outage.load(Ordering::Acquire);
        let lost = || shared.lost.load(Ordering::Acquire);
        let looked = || shared.visits.lock().unwrap_or_else(PoisonError::into_inner).look.is_some();
        down = down || (lost() && !looked());
        let result = ask(address, if down { "/peek" } else { "/count" });
        let mut visits = shared.visits.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            // Which of the two servers has counted this can't be told.
            Ok(_) if !down && lost() && visits.look.is_none() => {}
            Ok(answer) => {
                let visit = Visit { asked_ms, answered_ms: wall_ms(), answer };
                match (down, visits.look.is_some(), visits.after.is_some()) {
                    (true, ..) => {
                        down = false;
                        visits.look = Some(visit);
                    }
                    (false, false, _) => visits.before.push(visit),
                    (false, true, false) => visits.after = Some(visit),
                    (false, true, true) => {}
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the client got no answer");
                visits.failures += 1;
                down = down || (outage && visits.look.is_none());
            }
        }
        drop(visits);
        thread::sleep(PACE);
    }
}

fn ask(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: counter\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).filter(|_| text.starts_with("HTTP/1."));
    let body = body.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no whole answer"))?;
    serde_json::from_str(body).map_err(io::Error::other)
}
