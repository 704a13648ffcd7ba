//! Progress of long work: a bar on a terminal, silence in a pipe, nothing for what is over in a moment.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use sustain_store::Progress;

use crate::interrupt::Interrupt;
use crate::output::Output;

/// A bar on standard error; Ctrl-C cancels the work that it shows.
pub(crate) struct Bar {
    bar: ProgressBar,
    interrupt: Interrupt,
    events: Option<Events>,
}

/// Where progress is told as JSON, an object a line.
struct Events {
    output: Output,
    doing: &'static str,
    /// Since when no line was printed.
    since: Mutex<Instant>,
}

impl Events {
    fn tell(&self, doing: &str, bytes: u64, bytes_total: u64) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.elapsed() >= EVENT_INTERVAL {
            *since = Instant::now();
            let event =
                json!({ "event": "progress", "doing": doing, "bytes": bytes, "bytes_total": bytes_total });
            // Who does not read them any more is noticed at the result.
            let _ = self.output.line(&event.to_string());
        }
    }
}

/// Between two lines of progress.
const EVENT_INTERVAL: Duration = Duration::from_millis(250);

impl Bar {
    /// A bar with a word for what is being done.
    pub(crate) fn new(doing: &'static str, json: bool) -> Self {
        let target = if json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
        let bar = ProgressBar::with_draw_target(Some(0), target).with_message(doing);
        let style = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, interrupt: Interrupt::watch(), events: None }
    }

    /// The same, and tells of progress as JSON, too.
    pub(crate) fn with_events(doing: &'static str, output: &Output) -> Self {
        let events = Events { output: *output, doing, since: Mutex::new(Instant::now()) };
        Self { events: Some(events), ..Self::new(doing, true) }
    }

    /// Shows how far it is with something.
    pub(crate) fn show(&self, doing: &str, bytes: u64, bytes_total: u64) {
        if bytes_total > 0 && !self.bar.is_hidden() {
            self.bar.set_message(doing.to_owned());
            self.bar.set_length(bytes_total);
            self.bar.set_position(bytes);
        }
        if let Some(events) = &self.events {
            events.tell(doing, bytes, bytes_total);
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.bar.set_length(bytes);
        // Not before: without a length it would look as if all were done.
        self.bar.enable_steady_tick(Duration::from_millis(250));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if let Some(events) = &self.events {
            events.tell(events.doing, self.bar.position(), self.bar.length().unwrap_or(0));
        }
    }

    fn cancelled(&self) -> bool {
        self.interrupt.is_set()
    }
}
