//! The guest as a client outside sees it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Outcome;

/// From one answer to the next question: so slow that asking is no load of its own.
const PACE: Duration = Duration::from_millis(1);

/// One question. The connection may stay open, as many clients keep theirs, but not while the guest boots: tries
/// that were given up would take all the places that its service has.
fn ask_on(stream: &mut TcpStream, path: &str, keep: bool) -> std::io::Result<String> {
    let connection = if keep { "keep-alive" } else { "close" };
    let question = format!("GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1_024]);
    // Answers are one small JSON object behind their head.
    while !answer.ends_with(b"}") {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            bytes => answer.extend_from_slice(&buffer[..bytes]),
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

pub(crate) fn connect(address: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One question on a connection of its own.
pub(crate) fn ask(address: SocketAddr, path: &str) -> Outcome<String> {
    Ok(ask_on(&mut connect(address, Duration::from_secs(30))?, path, false)?)
}

/// Waits until the guest has booted.
pub(crate) fn wait_for_boot(address: SocketAddr) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(180);
    while Instant::now() < deadline {
        let answer = connect(address, Duration::from_millis(300))
            .and_then(|mut stream| ask_on(&mut stream, "/peek", false));
        if answer.is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("the guest does not boot".into())
}

/// What the guest's computing thread has done so far.
pub(crate) fn spins(address: SocketAddr) -> Outcome<(u64, Instant)> {
    let body: serde_json::Value = serde_json::from_str(&ask(address, "/spin")?)?;
    Ok((body["spins"].as_u64().ok_or("no spins")?, Instant::now()))
}

/// Asks again and again, and remembers the longest time without an answer.
pub(crate) struct Pinger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Duration>>,
}

impl Pinger {
    /// Begins after one answer, so that connecting does not count.
    pub(crate) fn start(address: SocketAddr) -> Outcome<Self> {
        let mut stream = connect(address, Duration::from_secs(30))?;
        ask_on(&mut stream, "/peek", true)?;
        let mut asked = 1;
        Ok(Self::asking(move |last| {
            // The guest's service closes a connection after 1,000 answers.
            if asked == 900 {
                (stream, asked) = (connect(address, Duration::from_secs(30))?, 0);
                ask_on(&mut stream, "/peek", true)?;
                *last = Instant::now();
            }
            asked += 1;
            ask_on(&mut stream, "/peek", true).map(drop)
        }))
    }

    /// The same with any question, which returns when it is answered. It is told the moment from which it counts.
    pub(crate) fn asking(
        mut question: impl FnMut(&mut Instant) -> std::io::Result<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(SeqCst) {
                question(&mut last)?;
                let now = Instant::now();
                longest = longest.max(now - last);
                last = now;
                std::thread::sleep(PACE);
            }
            Ok(longest)
        });
        Self { stop, thread }
    }

    /// The longest gap, in milliseconds.
    pub(crate) fn stop(self) -> Outcome<f64> {
        self.stop.store(true, SeqCst);
        let longest = self.thread.join().map_err(|_| "the pinger failed")??;
        Ok(longest.as_secs_f64() * 1e3)
    }
}
