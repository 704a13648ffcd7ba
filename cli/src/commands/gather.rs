//! `snapctl gather`: a snapshot's regions as files.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use sustain_node::admin::GatherCall;
use sustain_node::operations::{self, Failure};

use super::push::to_value;
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::progress::Bar;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Write a snapshot's regions into a folder
///
/// Every chunk is checked before it counts. Either all files are there and are what was pushed, bit for bit,
/// or none is. A node fetches what it lacks from other nodes first.
///
/// Example: snapctl --store ./states gather mail@latest --to ./restored
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GatherArgs {
    /// A snapshot: its id, the beginning of it, SERVICE@latest, or SERVICE@-1 for the one before, and so on
    snapshot: String,

    /// The folder, made if need be; a file of a region's name is replaced
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

pub(crate) fn run(args: GatherArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let to = std::path::absolute(&args.to)
        .map_err(|error| Failure::new(2, format!("{}: {error}", args.to.display())))?;
    let value = match choice.place(false)? {
        Place::Folder(store) => {
            let bar = Bar::new("gather", output.is_json());
            let gathered = operations::with_snapshot(&store, &args.snapshot, |snapshot| {
                operations::gather(&store, snapshot, &to, &bar)
            });
            bar.finish();
            to_value(&gathered?)?
        }
        Place::Daemon(client) => client.post("/v1/gather", &GatherCall { snapshot: args.snapshot, to })?,
    };
    output.result(&value, words)?;
    Ok(0)
}

fn words(value: &Value) -> String {
    format!(
        "snapshot {}: {} written, every chunk verified, {}",
        value["snapshot"].as_str().unwrap_or("?"),
        text::bytes(value["bytes_out"].as_u64().unwrap_or(0)),
        text::seconds(value["seconds"].as_f64().unwrap_or(0.0)),
    )
}
