//! Scrubbing a node's store in the background, and having bad packs sent again by the other nodes.
//!
//! ```text
//! pass: every pack compared with its id, slowly ──bad──▶ set aside ──┐
//! a restore, a guest's disk, `snapctl verify` ──────────bad──▶ set aside ──┴─▶ mending: gathered again
//! ```
//! A pass takes a thread that stands back behind all others, and no lock for longer than it takes to open a file.

mod status;
mod timing;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sustain_proto::PackId;
use sustain_proto::human::counted;
use sustain_store::{BadPack, Depth, Pace, Progress, Store, VerifyError, VerifyOptions, error_chain};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{self, Monotonic};
use crate::config::ScrubConfig;
use crate::events::{EventLog, Happening};
use crate::limits;
use crate::service::Mender;

pub use status::ScrubStatus;
pub(crate) use status::ScrubWatch;
use timing::{Passes, Retries, rate, wait_ms};

/// What scrubbing takes.
#[derive(Clone)]
pub(crate) struct Scrubber {
    pub(crate) store: Store,
    pub(crate) mender: Mender,
    pub(crate) config: ScrubConfig,
    pub(crate) events: Arc<EventLog>,
    pub(crate) watch: Arc<ScrubWatch>,
    pub(crate) cancel: CancellationToken,
}

/// Begins both. They end with the token.
pub(crate) fn start(scrubber: Scrubber, tasks: &TaskTracker) {
    let mending = scrubber.clone();
    tasks.spawn(async move { mending.mend().await });
    if scrubber.config.enabled {
        tasks.spawn(async move { scrubber.passes().await });
    }
}

/// How far a pass is, and whether it is to end.
struct PassProgress(Scrubber);

impl Progress for PassProgress {
    fn total(&self, bytes: u64) {
        self.0.watch.bytes_total.store(bytes, Ordering::Relaxed);
        self.0.watch.bytes_done.store(0, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.0.watch.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.cancel.is_cancelled()
    }
}

impl Scrubber {
    /// Pass after pass.
    async fn passes(self) {
        loop {
            let wait = self.blocking(|scrubber| scrubber.wait()).await;
            // Looked at again now and then: the store grows, and wall clocks are set.
            if self.sleep(wait.min(limits::SCRUB_WAIT_MAX)).await {
                return;
            }
            if wait > limits::SCRUB_WAIT_MAX {
                continue;
            }
            let done = self.blocking(|scrubber| scrubber.pass()).await;
            if !done && self.sleep(limits::SCRUB_WAIT_MAX).await {
                return;
            }
        }
    }

    /// Whether the node is stopping.
    async fn sleep(&self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.cancel.cancelled()).await.is_ok()
    }

    async fn blocking<T: Send + Default + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let scrubber = self.clone();
        tokio::task::spawn_blocking(move || work(&scrubber)).await.unwrap_or_default()
    }

    fn wait(&self) -> Duration {
        let scrubbed = self.store.scrubbed();
        let passes = Passes { began_ms: scrubbed.began_ms, full_ms: scrubbed.full_ms };
        let pace = (self.config.every.as_millis(), self.config.rate.get());
        Duration::from_millis(wait_ms(passes, self.store.packs_bytes(), pace, clock::wall_ms()))
    }

    /// One pass, or what is left of it. Whether it was done, and noted.
    fn pass(&self) -> bool {
        let rate = rate(self.store.packs_bytes(), self.config.every.as_millis(), self.config.rate.get());
        let options = VerifyOptions {
            depth: Depth::Packs,
            seed: rand::random(),
            rate_bytes: Some(rate),
            resume: true,
            set_aside: true,
            pace: Pace::Behind,
            ..VerifyOptions::default()
        };
        let outcome = self.store.verify_with(&options, &PassProgress(self.clone()));
        let noted = self.store.scrubbed().began_ms.is_none();
        match outcome {
            Ok(report) => {
                let bad = report.set_aside.len();
                tracing::info!(packs = report.packs, bytes = report.bytes, bad, "the store was scrubbed");
                noted
            }
            Err(VerifyError::Cancelled) => false,
            Err(error) => {
                let what = format!("the store can't be scrubbed: {}", error_chain(&error));
                self.events.add(Happening::Problem { service: None, what });
                false
            }
        }
    }

    /// Has bad packs sent again, whoever found them.
    async fn mend(self) {
        let (mut retries, clock) = (Retries::default(), Monotonic::start());
        while !self.sleep(limits::SCRUB_MEND_LOOK).await {
            let bad = self.blocking(|scrubber| scrubber.store.bad_packs()).await;
            let ids: Vec<PackId> = bad.iter().map(|bad| bad.id).collect();
            for id in retries.due(&ids, clock.now_ms()) {
                let Some(pack) = bad.iter().find(|bad| bad.id == id).cloned() else { continue };
                let outcome = self.blocking(|scrubber| scrubber.mend_pack(pack)).await;
                if let Some(Mended::Failed { what }) = outcome {
                    if retries.failed(id, clock.now_ms()) {
                        self.events.add(what);
                    }
                }
            }
        }
    }

    fn mend_pack(&self, pack: BadPack) -> Option<Mended> {
        let service = pack.services.first().cloned();
        let snapshot = *pack.snapshots.iter().find(|id| self.store.manifest(**id).is_ok())?;
        let outcome = self.mender.pack(snapshot, pack.id);
        if !self.store.bad_packs().iter().any(|bad| bad.id == pack.id) {
            self.watch.mended.fetch_add(1, Ordering::Relaxed);
            self.events.add(Happening::Mended { service, pack: pack.id, reason: pack.reason });
            return Some(Mended::Done);
        }
        let cause = outcome.err().map_or_else(|| "it came damaged".to_owned(), |error| error_chain(&error));
        let snapshots = counted(pack.snapshots.len() as u64, "snapshot needs", "snapshots need");
        let (short, reason) = (pack.id.short(), pack.reason);
        let what = format!("pack {short} is bad ({reason}), {snapshots} it, and nobody sends it: {cause}");
        Some(Mended::Failed { what: Happening::Problem { service, what } })
    }
}

/// What came of it.
enum Mended {
    Done,
    Failed { what: Happening },
}
