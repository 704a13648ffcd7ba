//! Keeps the disk's process running, and speaks with it.
//!
//! ```text
//! start ── connected ── ends ── pause, longer each time ── start …
//! ```
//! The socket at which clients connect is this side's: it outlives the process, and clients that come
//! while none runs wait in its queue.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::channel::{receive, send};
use super::control::{CONTROL_VERSION, Reply, Request};
use crate::limits::{CONTROL_TIMEOUT, RESTART_PAUSE_MAX, RESTART_PAUSE_MIN, RESTART_SETTLED};
use crate::output::ConsoleFile;
use crate::process::{Launch, Process};

/// The process, as long as this handle lives.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    /// Held from a question to its answer.
    asking: Mutex<()>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The connection to the process that runs, and its id.
    control: Option<(Arc<UnixStream>, u32)>,
    /// Layers up to this one may be folded; told to each new process.
    fold_to: u64,
    /// Whether it is to fetch what is missing; told to each new process.
    prefetch: bool,
    restarts: u64,
    /// How the last process ended.
    last_words: Option<String>,
    stopping: bool,
}

/// What it takes to start the process.
pub(crate) struct Plan {
    pub(crate) command_line: Vec<OsString>,
    pub(crate) listener: UnixListener,
    /// Where its log goes.
    pub(crate) folder: PathBuf,
}

impl Supervisor {
    /// Starts the process and waits until it answers.
    ///
    /// # Errors
    /// If it can't be started, or ends before it has answered.
    pub(crate) fn start(plan: Plan) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let first = Running::start(&plan, &shared)?;
        let kept = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("disk-supervisor".into())
            .spawn(move || supervise(&plan, &kept, first))?;
        Ok(Self { shared, asking: Mutex::new(()), thread: Some(thread) })
    }

    /// Asks the process. One that ends meanwhile is started again, and asked again.
    ///
    /// # Errors
    /// If there is no answer in time.
    pub(crate) fn ask(&self, request: &Request, timeout: Duration) -> io::Result<Reply> {
        let deadline = Instant::now() + timeout;
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed: Option<u32> = None;
        loop {
            let (control, pid) = self.connection(failed, deadline)?;
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            control.set_read_timeout(Some(left))?;
            match exchange(&control, request) {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    // An answer that comes late would be taken for the next one's.
                    let _ = control.shutdown(std::net::Shutdown::Both);
                    tracing::debug!(%error, pid, "the disk's process does not answer");
                    failed = Some(pid);
                }
            }
        }
    }

    /// The connection to a process other than the one that failed.
    fn connection(&self, failed: Option<u32>, deadline: Instant) -> io::Result<(Arc<UnixStream>, u32)> {
        let mut state = self.shared.lock();
        loop {
            if let Some((control, pid)) = state.control.as_ref().filter(|(_, pid)| Some(*pid) != failed) {
                return Ok((Arc::clone(control), *pid));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let words = state.last_words.clone().unwrap_or_else(|| "it does not answer".to_owned());
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets layers up to this one be folded, now and by every process to come.
    pub(crate) fn fold(&self, layer: u64) {
        self.shared.lock().fold_to = layer;
        // If it fails, the next process is told.
        if let Err(error) = self.ask(&Request::Fold { layer }, CONTROL_TIMEOUT) {
            tracing::warn!(%error, "the disk's process was not told to fold");
        }
    }

    /// Has everything that is missing fetched, by this process and by every one to come.
    pub(crate) fn prefetch(&self) {
        self.shared.lock().prefetch = true;
        // If it fails, the next process is told.
        if let Err(error) = self.ask(&Request::Prefetch, CONTROL_TIMEOUT) {
            tracing::warn!(%error, "the disk's process was not told to fetch what is missing");
        }
    }

    /// Id of the process, and how often it was started again.
    pub(crate) fn process(&self) -> (Option<u32>, u64) {
        let state = self.shared.lock();
        (state.control.as_ref().map(|(_, pid)| *pid), state.restarts)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let control = {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.control.take()
        };
        self.shared.changed.notify_all();
        if let Some((control, _)) = control {
            let _ = send(&control, &Request::Stop);
            let _ = control.shutdown(std::net::Shutdown::Write);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exchange(control: &UnixStream, request: &Request) -> io::Result<Reply> {
    send(control, request)?;
    receive(control)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

struct Running {
    process: Process,
    since: Instant,
}

impl Running {
    fn start(plan: &Plan, shared: &Shared) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let launch = Launch {
            command_line: plan.command_line.clone(),
            stdin: OwnedFd::from(plan.listener.try_clone()?),
            stdout: theirs.into(),
            // What it says is begun anew with each process; its last words are in the report.
            console: ConsoleFile::create(&plan.folder).ok(),
        };
        let process = Process::start(launch)?;
        ours.set_read_timeout(Some(CONTROL_TIMEOUT))?;
        ours.set_write_timeout(Some(CONTROL_TIMEOUT))?;
        let mut told = vec![Request::Hello { version: CONTROL_VERSION }];
        {
            let state = shared.lock();
            told.push(Request::Fold { layer: state.fold_to });
            told.extend(state.prefetch.then_some(Request::Prefetch));
        }
        for request in &told {
            match exchange(&ours, request) {
                Ok(Reply::Done) => {}
                Ok(reply) => return Err(io::Error::other(format!("it answers {reply:?}"))),
                Err(error) => {
                    let report = process.wait(Duration::from_secs(1)).map(|report| report.to_string());
                    return Err(io::Error::new(error.kind(), report.unwrap_or_else(|| error.to_string())));
                }
            }
        }
        let mut state = shared.lock();
        if !state.stopping {
            state.control = Some((Arc::new(ours), process.pid()));
        }
        shared.changed.notify_all();
        Ok(Self { process, since: Instant::now() })
    }
}

fn supervise(plan: &Plan, shared: &Shared, first: Running) {
    let mut running = Some(first);
    let mut pause = RESTART_PAUSE_MIN;
    loop {
        if let Some(Running { process, since }) = running.take() {
            let report = watch(&process, shared);
            let mut state = shared.lock();
            state.control = None;
            if state.stopping {
                return;
            }
            tracing::error!(pid = process.pid(), %report, "the disk's process has ended; starting it again");
            state.last_words = Some(report);
            state.restarts += 1;
            if since.elapsed() > RESTART_SETTLED {
                pause = RESTART_PAUSE_MIN;
            }
        }
        if wait_for_stop(shared, pause) {
            return;
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
        match Running::start(plan, shared) {
            Ok(started) => running = Some(started),
            Err(error) => {
                tracing::error!(%error, "the disk's process does not start");
                shared.lock().last_words = Some(error.to_string());
            }
        }
    }
}

/// Waits for the process to end, and ends it if it is to stop and does not.
fn watch(process: &Process, shared: &Shared) -> String {
    loop {
        if let Some(report) = process.wait(Duration::from_millis(100)) {
            return report.to_string();
        }
        if shared.lock().stopping {
            // It had its word; dropping the handle ends it by force.
            let report = process.wait(CONTROL_TIMEOUT).map(|report| report.to_string());
            return report.unwrap_or_default();
        }
    }
}

/// Waits; whether it is to stop.
fn wait_for_stop(shared: &Shared, pause: Duration) -> bool {
    let deadline = Instant::now() + pause;
    let mut state = shared.lock();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if state.stopping || left.is_zero() {
            return state.stopping;
        }
        let waited = shared.changed.wait_timeout(state, left);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}
