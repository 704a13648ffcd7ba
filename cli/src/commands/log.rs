//! `snapctl log`: the snapshots of a service.

use clap::Args;
use serde_json::Value;
use sustain_node::log;
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_proto::human::counted;
use sustain_store::Store;

use super::push::to_value;
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// List the snapshots of a service, oldest first
///
/// Those that can't be read, or only in parts, are listed with what is wrong; if there are no others the command ends
/// with 13. A snapshot is durable if enough other nodes have it, or a later one that continues it. Of plain files only
/// the node that stored them knows: elsewhere there is a question mark, or null with --json.
///
/// Example: snapctl --store ./states log mail
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct LogArgs {
    /// The service
    service: ServiceName,
}

pub(crate) fn run(args: LogArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let value: Value = match choice.place(false)? {
        Place::Folder(store) => {
            let listed = log::log(&store, &args.service)?;
            warn_of_manifests(&store, output);
            to_value(&listed)?
        }
        Place::Daemon(client) => client.get(&format!("/v1/log?service={}", args.service))?,
    };
    output.result(&value, words)?;
    Ok(judge(&args.service, &value, output))
}

/// A manifest that can't be read may be of any service.
fn warn_of_manifests(store: &Store, output: &Output) {
    let bad = store.opened().bad.iter();
    for bad in bad.filter(|bad| bad.path.extension().is_some_and(|end| end == "manifest")) {
        let (path, reason) = (bad.path.display(), &bad.reason);
        output.message(&format!("warning: {path}: {reason}; it may be of this service, and is not listed"));
    }
}

/// The exit code. Whoever finds no snapshot that can be read is told so at the end, too.
fn judge(service: &ServiceName, value: &Value, output: &Output) -> u8 {
    let all = value.as_array().map_or(0, Vec::len);
    let bad =
        value.as_array().into_iter().flatten().filter(|snapshot| snapshot["problem"].is_string()).count();
    let why = "can't be read, or only in parts: files are missing or damaged";
    if bad > 0 && bad == all {
        let what = counted(bad as u64, "snapshot", "snapshots");
        let failure = Failure::new(13, format!("{what} of {service} {why}"));
        output.complain(&failure.with_hint("`snapctl verify` names every damaged file"));
        return 13;
    }
    if bad > 0 {
        output.message(&format!("warning: {bad} of {all} snapshots {why}"));
    }
    0
}

fn words(value: &Value) -> String {
    let header = ["snapshot", "number", "kind", "term", "parents", "size", "stored", "durable", "age"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let now_ms = sustain_node::clock::wall_ms();
    let snapshots = || value.as_array().into_iter().flatten();
    rows.extend(snapshots().map(|snapshot| row(snapshot, now_ms)));
    let problems = std::iter::once(None).chain(snapshots().map(|snapshot| snapshot["problem"].as_str()));
    let mut text = String::new();
    for (line, problem) in text::table(&rows).lines().zip(problems) {
        text.push_str(&format!("{line}\n"));
        if let Some(problem) = problem {
            text.push_str(&format!("  problem: {problem}\n"));
        }
    }
    text
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
