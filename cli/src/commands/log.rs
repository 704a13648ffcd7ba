//! `snapctl log`: the snapshots of a service.

use clap::Args;
use serde_json::Value;
use sustain_node::operations::{self, Failure};
use sustain_proto::ServiceName;
use sustain_proto::human::counted;
use sustain_store::Store;

use super::push::to_value;
use crate::output::Output;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// List the snapshots of a service, oldest first
///
/// A snapshot is durable if enough other nodes have it, or a later one that continues it. Of plain files only the node
/// that stored them knows: elsewhere there is a question mark, or null with --json.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The service
    service: ServiceName,
}

pub(crate) fn run(args: LogArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let value: Value = match choice.place(false)? {
        Place::Folder(store) => {
            let listed = operations::log(&store, &args.service)?;
            warn_of_damage(&store, &args.service, output);
            to_value(&listed)?
        }
        Place::Daemon(client) => client.get(&format!("/v1/log?service={}", args.service))?,
    };
    output.result(&value, words)?;
    Ok(0)
}

/// Snapshots that are not whole are not listed.
fn warn_of_damage(store: &Store, service: &ServiceName, output: &Output) {
    let incomplete = store.snapshots_incomplete(service) as u64;
    if incomplete == 0 {
        return;
    }
    let more = counted(incomplete, "more snapshot", "more snapshots");
    output.message(&format!("warning: {more} can't be read, or only in parts: files are missing or damaged"));
    for bad in store.bad_packs().iter().filter(|bad| bad.services.contains(service)) {
        let snapshots = counted(bad.snapshots.len() as u64, "snapshot needs", "snapshots need");
        output.message(&format!("warning: pack {}: {}; {snapshots} it", bad.id, bad.reason));
    }
}

fn words(value: &Value) -> String {
    let header = ["snapshot", "number", "kind", "term", "parents", "size", "stored", "durable", "age"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let now_ms = sustain_node::clock::wall_ms();
    for snapshot in value.as_array().into_iter().flatten() {
        rows.push(row(snapshot, now_ms));
    }
    text::table(&rows)
}

fn row(snapshot: &Value, now_ms: u64) -> Vec<String> {
    let number = |key: &str| snapshot[key].as_u64().unwrap_or(0);
    let short = |id: &Value| id.as_str().unwrap_or("?").chars().take(12).collect::<String>();
    let parents: Vec<String> = snapshot["parents"].as_array().into_iter().flatten().map(short).collect();
    let kind = match &snapshot["base"] {
        Value::String(base) => format!("delta of {}", base.chars().take(12).collect::<String>()),
        _ => "base".to_owned(),
    };
    vec![
        short(&snapshot["id"]),
        number("seq").to_string(),
        kind,
        format!("{}.{}", snapshot["term"]["counter"], short(&snapshot["term"]["node"])),
        if parents.is_empty() { "-".to_owned() } else { parents.join("+") },
        text::bytes(number("bytes")),
        text::bytes(number("bytes_new")),
        match snapshot["durable"].as_bool() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        }
        .to_owned(),
        text::seconds(now_ms.saturating_sub(number("time_ms")) as f64 / 1_000.0),
    ]
}
