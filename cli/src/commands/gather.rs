//! `snapctl gather`: a snapshot's regions as files.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use sustain_node::admin::{GatherCall, GatherProgress};
use sustain_node::operations::{self, Failure};
use sustain_store::Progress;

use super::push::to_value;
use crate::args::EXIT_CODES;
use crate::client::Client;
use crate::output::Output;
use crate::progress::Bar;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Write a snapshot's regions into a folder
///
/// Every chunk is checked before it counts. Either all files are there and are what was pushed, bit for bit,
/// or none is. A node fetches what it lacks from other nodes first, from all that have it at once; what came stays
/// there if that is interrupted, and is not fetched again. If the newest snapshot that the nodes know can't be had
/// whole, a node gathers the newest one that can for SERVICE@latest, and says which were passed over, and why.
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

    /// With --json, print how far it is, too: one object a line, the result last
    #[arg(long)]
    events: bool,
}

pub(crate) fn run(args: GatherArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let to = std::path::absolute(&args.to)
        .map_err(|error| Failure::new(2, format!("{}: {error}", args.to.display())))?;
    if args.events && !output.is_json() {
        return Err(
            Failure::new(2, "--events is for --json").with_hint("on a terminal a bar shows how far it is")
        );
    }
    let place = choice.place(false)?;
    let bar =
        if args.events { Bar::with_events("write", output) } else { Bar::new("gather", output.is_json()) };
    let value = match place {
        Place::Folder(store) => {
            let gathered = operations::with_snapshot(&store, &args.snapshot, |snapshot| {
                operations::gather(&store, snapshot, &to, &bar)
            });
            gathered.and_then(|gathered| to_value(&gathered))
        }
        Place::Daemon(client) => ask(&client, args.snapshot, to, &bar),
    };
    bar.finish();
    let value = value?;
    for passed in value["passed_over"].as_array().into_iter().flatten() {
        output.message(&passed_over(passed));
    }
    output.result(&value, words)?;
    Ok(0)
}

/// Has a daemon gather, and shows how far it is.
fn ask(client: &Client, snapshot: String, to: PathBuf, bar: &Bar) -> Result<Value, Failure> {
    let watch = rand::random();
    let call = GatherCall { snapshot, to, watch: Some(watch) };
    client.post_watched(
        "/v1/gather",
        &call,
        &format!("/v1/gather?watch={watch}"),
        |seen: Option<GatherProgress>| {
            if bar.cancelled() {
                return Err(Failure::new(130, "interrupted; nothing was written")
                    .with_hint("what came from other nodes is kept: run the command again to go on"));
            }
            if let Some(GatherProgress { doing, bytes, bytes_total }) = seen {
                bar.show(&doing, bytes, bytes_total);
            }
            Ok(())
        },
    )
}

fn passed_over(passed: &Value) -> String {
    let number = passed["seq"].as_u64().map_or(String::new(), |seq| format!(" (number {seq})"));
    format!(
        "warning: the newer snapshot {}{number} is passed over: {}",
        passed["snapshot"].as_str().unwrap_or("?"),
        passed["reason"].as_str().unwrap_or("?"),
    )
}

fn words(value: &Value) -> String {
    let fetched = match value["bytes_fetched"].as_u64() {
        None | Some(0) => String::new(),
        Some(bytes) => format!(", {} came from other nodes", text::bytes(bytes)),
    };
    format!(
        "snapshot {}: {} written, every chunk verified{fetched}, {}",
        value["snapshot"].as_str().unwrap_or("?"),
        text::bytes(value["bytes_out"].as_u64().unwrap_or(0)),
        text::seconds(value["seconds"].as_f64().unwrap_or(0.0)),
    )
}
