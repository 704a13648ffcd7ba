//! What a guest is told right after a restore: it takes itself to be where and when it was saved.
//!
//! - *Network*, for all guests: QEMU sends its card's address out again, so that switches learn where the
//!   guest is now. QEMU's user network does not need it.
//! - *Randomness*, for Linux 5.18 and newer built with `CONFIG_VMGENID` (Debian 12's cloud kernel is not): a
//!   vmgenid device with a new number, upon which the kernel renews its random numbers at once, by itself.
//! - *Randomness*, with an agent: fresh bytes written to /dev/urandom, and the kernel told to use them at once
//!   by perl or python. Without either they count from its next reseeding on, within a minute.
//! - *Clock*, with an agent: `guest-set-time`, or `date` where the agent refuses that for want of `hwclock`;
//!   then it is read back. Without an agent the guest goes on at the saved time.
//! - *Host name*, with an agent: read and compared with `/etc/hostname`. It is part of the memory, and a
//!   restore keeps it; it is only reported.
//!
//! Nothing here is waited for: the guest serves meanwhile.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime, SystemTimeError, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use sustain_store::error_chain;

use crate::limits::{AGENT_ANSWER_TIMEOUT, WAKE_TIMEOUT};

use super::agent::{Agent, AgentError, Connection, GuestFile, shell};

/// Fresh bytes for the guest: the state of its kernel's generator has 32.
const RANDOM_BYTES: usize = 64;

/// Makes the kernel take its pool into use: `RNDRESEEDCRNG`, for which no shell has a command.
const RESEED: &str = "perl -e 'open(F, q(>/dev/urandom)) && ioctl(F, 0x5207, 0) || exit 1' 2>/dev/null || \
                      python3 -c 'import fcntl; fcntl.ioctl(open(\"/dev/urandom\", \"w\"), 0x5207)' 2>/dev/null";

/// What was done to a guest right after its restore.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WakeReport {
    /// The network card announced.
    pub network: WakeStep,
    /// Fresh bytes given to the guest's random numbers.
    pub entropy: WakeStep,
    /// Whether the guest's kernel uses them at once, and not only from its next reseeding on.
    pub entropy_at_once: bool,
    /// The clock set.
    pub clock: WakeStep,
    /// How far the guest's clock was from this host's before it was set, in ms; behind is negative.
    pub clock_before_ms: Option<f64>,
    /// How far it was afterwards.
    pub clock_after_ms: Option<f64>,
    /// The host name looked at.
    pub host_name: WakeStep,
    /// The guest's host name.
    pub host_name_found: Option<String>,
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WakeStep {
    /// Done.
    Done {
        /// How long it took.
        ms: f64,
    },
    /// There is nobody in the guest who could do it.
    NoAgent,
    /// Tried, without success.
    Failed {
        /// Why.
        reason: String,
    },
}

impl WakeStep {
    pub(super) fn of(outcome: Result<(), Box<dyn Error + Send + Sync>>, started: Instant) -> Self {
        match outcome {
            Ok(()) => Self::Done { ms: milliseconds(started.elapsed()) },
            Err(error) => Self::Failed { reason: error_chain(&*error) },
        }
    }

    /// Whether it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

/// Does all that an agent is needed for. `network` is what became of the announcement, `agent` is none
/// if the guest has none.
pub(crate) fn wake(network: WakeStep, agent: Option<&Agent>) -> WakeReport {
    let step = || WakeStep::NoAgent;
    let (entropy, clock, host_name) = (step(), step(), step());
    let mut report = WakeReport {
        network,
        entropy,
        entropy_at_once: false,
        clock,
        clock_before_ms: None,
        clock_after_ms: None,
        host_name,
        host_name_found: None,
    };
    if let Some(agent) = agent {
        let deadline = Instant::now() + WAKE_TIMEOUT;
        let waking = Waking { connection: &mut agent.lock(), deadline };
        waking.all(&mut report);
    }
    report
}

struct Waking<'a> {
    connection: &'a mut Connection,
    deadline: Instant,
}

impl Waking<'_> {
    fn all(mut self, report: &mut WakeReport) {
        let started = Instant::now();
        report.entropy = WakeStep::of(self.stir(), started);
        let started = Instant::now();
        report.clock = WakeStep::of(self.set_clock(report), started);
        // After the clock: an interpreter takes seconds to come up in a guest whose disk is far away.
        let reseeded = shell(self.connection, RESEED, &[], self.patience());
        report.entropy_at_once = reseeded.is_ok_and(|outcome| outcome.code == Some(0));
        let started = Instant::now();
        report.host_name = WakeStep::of(self.read_host_name(report), started);
    }

    fn patience(&self) -> Duration {
        // Zero would mean for ever to a socket; the connection takes it for "too late".
        self.deadline.saturating_duration_since(Instant::now()).min(AGENT_ANSWER_TIMEOUT)
    }

    fn stir(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut bytes = [0; RANDOM_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let file = GuestFile::open(self.connection, "/dev/urandom", "w", self.patience())?;
        let written = file.write(self.connection, &bytes, self.patience());
        file.close(self.connection, self.patience())?;
        Ok(written?)
    }

    fn set_clock(&mut self, report: &mut WakeReport) -> Result<(), Box<dyn Error + Send + Sync>> {
        report.clock_before_ms = Some(self.clock_offset_ms()?);
        let arguments = json!({ "time": i64::try_from(now()?.as_nanos())? });
        let set = self.connection.tell("guest-set-time", arguments, self.patience());
        match set {
            Ok(()) => {}
            // The agent will not set a clock without `hwclock`, which small and newer systems lack. Or it
            // has set it, and only the hardware's clock could not follow.
            Err(AgentError::Refused { .. }) => self.set_clock_by_date()?,
            Err(error) => return Err(error.into()),
        }
        let offset = self.clock_offset_ms()?;
        report.clock_after_ms = Some(offset);
        // The reading itself takes a while; a clock that was not set is off by more.
        if offset.abs() > CLOCK_OFFSET_MS_MAX {
            return Err(format!("the guest's clock is {offset:.0} ms off all the same").into());
        }
        Ok(())
    }

    fn set_clock_by_date(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        // Busybox's date takes whole seconds only: the nearest.
        let now = now()?;
        let exact = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let nearest = (now + Duration::from_millis(500)).as_secs().to_string();
        let script = r#"date -u -s "@$1" >/dev/null 2>&1 || date -u -s "@$2" >/dev/null"#;
        let outcome = shell(self.connection, script, &[&exact, &nearest], self.patience())?;
        if outcome.code == Some(0) {
            return Ok(());
        }
        let said =
            String::from_utf8_lossy(&outcome.stderr).chars().filter(|c| !c.is_control()).collect::<String>();
        Err(format!("neither guest-set-time nor date can set it: {said}").into())
    }

    /// How far the guest's clock is ahead of this host's, to within half the time that asking takes.
    fn clock_offset_ms(&mut self) -> Result<f64, Box<dyn Error + Send + Sync>> {
        let asked = SystemTime::now();
        let answer = self.connection.call("guest-get-time", &json!({}), self.patience())?;
        let took = asked.elapsed()? / 2;
        let guest = answer.as_u64().ok_or("guest-get-time answers no time")?;
        let here = (asked + took).duration_since(UNIX_EPOCH)?;
        let there = Duration::from_nanos(guest);
        Ok(milliseconds(there.saturating_sub(here)) - milliseconds(here.saturating_sub(there)))
    }

    fn read_host_name(&mut self, report: &mut WakeReport) -> Result<(), Box<dyn Error + Send + Sync>> {
        let answer = self.connection.call("guest-get-host-name", &json!({}), self.patience())?;
        let name = answer["host-name"].as_str().ok_or("guest-get-host-name answers no name")?;
        let name: String = name.chars().filter(|c| !c.is_control()).take(HOST_NAME_CHARS_MAX).collect();
        report.host_name_found = Some(name.clone());
        // A guest without this file has no name that it ought to have.
        let Ok(file) = GuestFile::open(self.connection, "/etc/hostname", "r", self.patience()) else {
            return Ok(());
        };
        let read = file.read(self.connection, self.patience());
        file.close(self.connection, self.patience())?;
        let configured = String::from_utf8_lossy(&read?).trim().to_owned();
        if configured.is_empty() || configured == name {
            return Ok(());
        }
        Err(format!("the guest's host name is {name:?}, its settings say {configured:?}").into())
    }
}

/// Further off than this, a clock was not set. Reading it takes milliseconds; an agent of a busy guest under
/// emulation may take longer.
const CLOCK_OFFSET_MS_MAX: f64 = 1_000.0;

/// Linux takes 64.
const HOST_NAME_CHARS_MAX: usize = 64;

fn now() -> Result<Duration, SystemTimeError> {
    SystemTime::now().duration_since(UNIX_EPOCH)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
