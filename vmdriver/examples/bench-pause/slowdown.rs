//! By how much less a guest gets done with a snapshot each interval, and what of that is due to what.
//!
//! Short windows of each way, turn by turn, so that whatever else the machine does hits all of them; each is
//! compared with the window without snapshots of its own turn, and medians are taken.

use std::fs;
use std::time::{Duration, Instant};

use sustain_store::Pace;
use sustain_vmdriver::{Vm, VmSpec};

use crate::client::spins;
use crate::{Bench, Outcome, median};

/// What happens in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// No snapshots.
    Without,
    /// Snapshots that nobody stores: looks, copies, pauses.
    NotStored,
    /// Snapshots as a node takes them.
    Stored(Pace),
}

const WAYS: [Way; 4] = [Way::Without, Way::NotStored, Way::Stored(Pace::Behind), Way::Stored(Pace::Full)];

/// The way that the result is of.
const AS_A_NODE: usize = 2;

/// Length of a window, in intervals.
const WINDOW_INTERVALS: u32 = 5;

/// What a window came to.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// The guest's work in a second of the clock.
    rate: f64,
    /// The same in a second that its processor's thread ran.
    rate_running: f64,
    /// Share of the time that the thread ran.
    running: f64,
    /// Share of the time that it would have run, had a core been free.
    waiting: f64,
}

/// Nanoseconds that the busiest thread of a process ran and waited for a core: the guest's processor.
fn processor_ns(pid: u32) -> Outcome<(f64, f64)> {
    let mut busiest = (0.0, 0.0);
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let mut numbers = text.split_whitespace().map(str::parse::<f64>);
        let (ran, waited) = (numbers.next().ok_or("no time")??, numbers.next().ok_or("no time")??);
        if ran > busiest.0 {
            busiest = (ran, waited);
        }
    }
    Ok(busiest)
}

impl Bench {
    fn window(&mut self, vm: &mut dyn Vm, spec: &VmSpec, way: Way) -> Outcome<Window> {
        let address = vm.forwards().first().ok_or("the VM forwards no port")?.host;
        let interval = Duration::from_millis(self.options.interval_ms);
        let (before, since) = spins(address)?;
        let (ran, waited) = processor_ns(vm.pid())?;
        for _ in 0..WINDOW_INTERVALS {
            let started = Instant::now();
            match way {
                Way::Without => {}
                Way::NotStored => self.snapshot_for_nobody(vm)?,
                Way::Stored(pace) => self.snapshot(vm, spec, pace).map(drop)?,
            }
            std::thread::sleep(interval.saturating_sub(started.elapsed()));
        }
        let (after, until) = spins(address)?;
        let (ran_to, waited_to) = processor_ns(vm.pid())?;
        let (seconds, running) = ((until - since).as_secs_f64(), (ran_to - ran) / 1e9);
        Ok(Window {
            rate: (after - before) as f64 / seconds,
            rate_running: (after - before) as f64 / running,
            running: running / seconds,
            waiting: (waited_to - waited) / 1e9 / seconds,
        })
    }

    /// The slowdown in percent. Prints a table of all ways.
    pub(crate) fn slowdown_percent(&mut self, vm: &mut dyn Vm, spec: &VmSpec) -> Outcome<f64> {
        let address = vm.forwards().first().ok_or("the VM forwards no port")?.host;
        // Its computing thread begins with the first question.
        spins(address)?;
        let mut turns = Vec::new();
        for _ in 0..self.options.slowdown_turns {
            let windows = WAYS.map(|way| {
                // What was written meanwhile belongs to nobody's window.
                self.snapshot(vm, spec, Pace::Full)?;
                self.window(vm, spec, way)
            });
            turns.push(windows.into_iter().collect::<Outcome<Vec<_>>>()?);
        }
        let part = |way: usize, of: fn(&Window, &Window) -> f64| {
            median(turns.iter().map(|windows| of(&windows[way], &windows[0])).collect())
        };
        println!("{:>16} {:>9} {:>9} {:>9} {:>9}", "", "slower %", "run %", "wait %", "less/run %");
        for (number, way) in WAYS.iter().enumerate() {
            println!(
                "{:>16} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
                format!("{way:?}"),
                part(number, |window, without| (1.0 - window.rate / without.rate) * 100.0),
                part(number, |window, _| window.running * 100.0),
                part(number, |window, _| window.waiting * 100.0),
                part(number, |window, without| (1.0 - window.rate_running / without.rate_running) * 100.0),
            );
        }
        Ok(part(AS_A_NODE, |window, without| (1.0 - window.rate / without.rate) * 100.0))
    }
}
