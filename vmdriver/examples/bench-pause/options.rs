//! What is to be measured.

use std::path::PathBuf;

use crate::Outcome;

const USAGE: &str = "usage: bench-pause [--sizes MIB,…] [--loads PAGES,…] [--snapshots N] [--interval MS] \
                     [--rival-rounds N] [--slowdown-turns N] [--compare yes] [--guest DIR] [--scratch DIR] \
                     [--mail DIR [--rate N]]";

/// The options, with what is measured without any.
pub(crate) struct Options {
    /// Guest memory, MiB each.
    pub(crate) sizes: Vec<u64>,
    /// Pages written a second.
    pub(crate) loads: Vec<u64>,
    /// Snapshots for each pair.
    pub(crate) snapshots: usize,
    /// From one snapshot's start to the next one's.
    pub(crate) interval_ms: u64,
    /// Rounds for each of QEMU's own ways.
    pub(crate) rival_rounds: usize,
    /// Windows of each way for the slowdown.
    pub(crate) slowdown_turns: usize,
    /// Compare all memory even where the kernel notes writes.
    pub(crate) compare: bool,
    /// Where the guest is.
    pub(crate) guest: PathBuf,
    /// Where the store and the rivals' files go.
    pub(crate) scratch: PathBuf,
    /// Where the mail guest is, if that is what is measured, and nothing else.
    pub(crate) mail: Option<PathBuf>,
    /// Mails sent to it a minute.
    pub(crate) rate: u32,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let guest = std::env::var_os("SUSTAIN_GUEST_DIR").unwrap_or_else(|| "target/guest".into());
        let mut options = Self {
            sizes: vec![256, 512, 2_048],
            loads: vec![0, 5_000, 20_000],
            snapshots: 20,
            interval_ms: 1_000,
            rival_rounds: 3,
            slowdown_turns: 4,
            compare: false,
            guest: guest.into(),
            scratch: std::env::temp_dir(),
            mail: None,
            // The load of the paper's measurements.
            rate: 800,
        };
        let list = |value: &str| value.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match name.as_str() {
                "--sizes" => options.sizes = list(&value)?,
                "--loads" => options.loads = list(&value)?,
                "--snapshots" => options.snapshots = value.parse()?,
                "--interval" => options.interval_ms = value.parse()?,
                "--rival-rounds" => options.rival_rounds = value.parse()?,
                "--slowdown-turns" => options.slowdown_turns = value.parse()?,
                "--compare" => options.compare = value == "yes",
                "--guest" => options.guest = value.into(),
                "--scratch" => options.scratch = value.into(),
                "--mail" => options.mail = Some(value.into()),
                "--rate" => options.rate = value.parse()?,
                _ => return Err(USAGE.into()),
            }
        }
        if options.snapshots == 0 || options.slowdown_turns == 0 {
            Err("at least one snapshot and turn".into())
        } else {
            Ok(options)
        }
    }
}
