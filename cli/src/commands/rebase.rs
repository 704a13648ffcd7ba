//! `snapctl rebase`: the newest snapshot becomes the base.

use clap::Args;
use serde_json::Value;
use sustain_node::operations::Failure;
use sustain_node::upkeep::{self, RebaseCall};
use sustain_proto::ServiceName;
use sustain_proto::human::counted;
use sustain_store::Pace;

use super::gc::held;
use super::push::to_value;
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::progress::Bar;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Make the newest snapshot the base of a new generation, and drop the older ones
///
/// This is how space is freed: what only older snapshots needed goes, but for pinned snapshots. What is kept restores
/// as before, and the promoted snapshot is still found under its old id. `snapctl gc` keeps older ones by rules.
///
/// Example: snapctl --store ./states rebase mail
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RebaseArgs {
    /// The service
    service: ServiceName,

    /// Only if it has grown: 60 deltas, deltas larger than their base, or as much dead as alive
    #[arg(long)]
    if_due: bool,

    /// Say what would be done, and change nothing; takes as long as doing it
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: RebaseArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let RebaseArgs { service, if_due, dry_run } = args;
    let call = RebaseCall { service, if_due, dry_run };
    let value = match choice.place(false)? {
        Place::Folder(store) => {
            let bar = Bar::new("rebase", output.is_json());
            let report = upkeep::rebase(&store, &call, Pace::Full, &bar);
            bar.finish();
            to_value(&report?)?
        }
        Place::Daemon(client) => client.post("/v1/rebase", &call)?,
    };
    output.result(&value, |value| words(value, dry_run))?;
    Ok(0)
}

fn words(value: &Value, dry_run: bool) -> String {
    if let Some(growth) = value.get("growth") {
        let number = |key: &str| growth[key].as_u64().unwrap_or(0);
        return format!(
            "not due: {} of {} beside a base of {}, {} needed by nobody",
            counted(number("deltas"), "delta", "deltas"),
            text::bytes(number("delta_bytes")),
            text::bytes(number("base_bytes")),
            text::bytes(number("dead_bytes")),
        );
    }
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut text = format!("base {}\n", value["base"].as_str().unwrap_or("?"));
    for pair in value["kept"].as_array().into_iter().flatten() {
        let pair = ids(pair);
        if let [before, now] = pair.as_slice() {
            text.push_str(&format!("kept {before} as {now}\n"));
        }
    }
    for id in ids(&value["dropped"]) {
        text.push_str(&format!("dropped {id}\n"));
    }
    let freed = text::bytes(value["bytes_freed"].as_u64().unwrap_or(0));
    text.push_str(&if dry_run {
        format!("{freed} would be freed; nothing was changed")
    } else {
        format!("{freed} freed")
    });
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    if number("packs_held") > 0 {
        let packs = counted(number("packs_held"), "more pack", "more packs");
        text.push_str(&format!("\n{packs}: {}", held(number("bytes_held"))));
    }
    text
}
