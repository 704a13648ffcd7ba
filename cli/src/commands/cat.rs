//! `snapctl cat`: bytes of a snapshot's region.

use clap::Args;
use sustain_inspect::{CatError, cat};
use sustain_node::operations::{self, Failure};
use sustain_proto::RegionName;
use sustain_store::error_chain;

use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::sizes::size;
use crate::whereabouts::Choice;

/// Write bytes of a snapshot's region to standard output
///
/// Only what was checked is written. Where a chunk is damaged it ends with an error, and what came before is right.
///
/// Example, the first sector of a disk: snapctl --store ./states cat mail@latest disk0 --length 512 | xxd
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CatArgs {
    /// A snapshot: its id, the beginning of it, SERVICE@latest, or SERVICE@-1 for the one before, and so on
    snapshot: String,

    /// One of its regions, such as ram, device or disk0
    region: RegionName,

    /// Where to begin, such as 4096, 64KiB or 2G
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    offset: u64,

    /// How many bytes [default: all that follow]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    length: Option<u64>,
}

pub(crate) fn run(args: &CatArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    if output.is_json() {
        return Err(Failure::new(2, "`cat` prints a region's bytes, which are no JSON")
            .with_hint("leave out --json; `snapctl log SERVICE --json` describes snapshots"));
    }
    let store = choice.readable_store()?;
    let reader = operations::open(&store, &args.snapshot)?;
    let mut out = output.data()?;
    match cat(&reader, &args.region, args.offset, args.length, &mut out) {
        Ok(_) => Ok(0),
        Err(CatError::Write(error)) => Err(Output::unwritten(&error)),
        Err(CatError::Read(fault)) => Err(Failure::of(&fault, fault.source.kind())),
        Err(error @ CatError::NoRegion { .. }) => {
            Err(Failure::new(10, error.to_string()).with_hint("name one of those"))
        }
        Err(error @ CatError::Outside { .. }) => Err(Failure::new(2, error.to_string())
            .with_hint("a smaller --offset or --length, or no --length for all that follow")),
        Err(error) => Err(Failure::new(1, error_chain(&error))),
    }
}
