//! `snapctl gc`: what nothing keeps goes.

use clap::Args;
use serde_json::Value;
use sustain_node::operations::Failure;
use sustain_node::upkeep::{self, GcCall, Keep};
use sustain_proto::ServiceName;
use sustain_proto::human::counted;

use super::push::to_value;
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::progress::Bar;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Drop the snapshots that no rule keeps, and the packs that no snapshot needs
///
/// Without a rule all snapshots stay. The newest one, the newest durable one, heads that lost an election and pinned
/// snapshots stay in any case. Work goes on beside it; Ctrl-C leaves the store as it was. The services of a node's
/// configuration are collected by their server, by the rules there. docs/gc.md explains it.
///
/// Example: snapctl --store ./states gc mail --keep-last 3 --keep-daily 7 --dry-run
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GcArgs {
    /// The service [default: all]
    service: Option<ServiceName>,

    /// Say what would go and what stays, and change nothing; takes as long as doing it
    #[arg(long)]
    dry_run: bool,

    /// Let go for good of snapshots whose manifest is missing or damaged, and of the deltas of such a base, and collect
    /// nothing else
    #[arg(long, conflicts_with_all = ["service", "keep_last", "keep_hourly", "keep_daily"])]
    forget_lost: bool,

    /// Keep so many of the newest
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,

    /// Keep the newest of each of the last N hours in which there are any
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,

    /// Keep the newest of each of the last N days (UTC) in which there are any
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
}

pub(crate) fn run(args: GcArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    if args.forget_lost {
        return forget_lost(args.dry_run, choice, output);
    }
    let keep = Keep { last: args.keep_last, hourly: args.keep_hourly, daily: args.keep_daily };
    let call = GcCall { service: args.service, dry_run: args.dry_run, keep };
    let value = match choice.place(false)? {
        Place::Folder(store) => {
            let bar = Bar::new("gc", output.is_json());
            let report = upkeep::gc(&store, &call, &bar);
            bar.finish();
            to_value(&report?)?
        }
        Place::Daemon(client) => client.post("/v1/gc", &call)?,
    };
    output.result(&value, words)?;
    Ok(0)
}

/// Beside a node, too: what is lost there is not to be sent by others any more.
fn forget_lost(dry_run: bool, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let store = choice.readable_store()?;
    let forgotten = store.forget_lost(dry_run).map_err(|fault| Failure::of(&fault, fault.kind()))?;
    let value = serde_json::json!({ "dry_run": dry_run, "forgotten": forgotten });
    output.result(&value, |_| {
        let does = if dry_run { "would be let go of" } else { "let go of" };
        let ids: Vec<String> = forgotten.iter().map(|id| format!("  {id}\n")).collect();
        format!("{} {does}\n{}", counted(ids.len() as u64, "snapshot", "snapshots"), ids.concat())
    })?;
    Ok(0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn words(value: &Value) -> String {
    let dry_run = value["dry_run"].as_bool().unwrap_or(false);
    let now_ms = sustain_node::clock::wall_ms();
    let mut text = String::new();
    for report in list(&value["services"]) {
        text.push_str(&service_words(report, dry_run, now_ms));
    }
    let unlisted = |key: &str| value["unlisted"][key].as_u64().unwrap_or(0);
    if unlisted("packs") > 0 {
        let packs = counted(unlisted("packs"), "pack", "packs");
        let (bytes, does) = (text::bytes(unlisted("bytes")), if dry_run { "would go" } else { "gone" });
        text.push_str(&format!("{packs} that no snapshot lists, {bytes}: {does}\n"));
    }
    if unlisted("packs_held") > 0 {
        let (packs, bytes) = (unlisted("packs_held"), unlisted("bytes_held"));
        text.push_str(&format!(
            "{} that no snapshot lists: {}\n",
            counted(packs, "pack", "packs"),
            held(bytes)
        ));
    }
    if value["unlisted"]["uncertain"].as_bool() == Some(true) {
        text.push_str("files are missing or damaged, so no pack is taken for unneeded (`snapctl verify`)\n");
    }
    let fragments = &value["fragments"];
    if let Some(count) = fragments["fragments"].as_u64().filter(|count| *count > 0) {
        let does = if dry_run { "would go" } else { "gone" };
        let bytes = text::bytes(fragments["bytes"].as_u64().unwrap_or(0));
        let count = counted(count, "fragment", "fragments");
        text.push_str(&format!("{count} that no manifest lists, {bytes}: {does}\n"));
    }
    for service in list(&fragments["uncertain"]).filter_map(Value::as_str) {
        text.push_str(&format!(
            "{service}: manifests are missing or damaged, so no fragment is taken for unneeded\n"
        ));
    }
    for service in list(&value["left_to_servers"]).filter_map(Value::as_str) {
        text.push_str(&format!("{service}: its server collects it\n"));
    }
    if text.is_empty() { "there is nothing here".to_owned() } else { text }
}

fn service_words(report: &Value, dry_run: bool, now_ms: u64) -> String {
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let mut rows = Vec::new();
    for (what, key) in [("goes", "goes"), ("stays", "stays")] {
        for snapshot in list(&report[key]) {
            let id: String = snapshot["id"].as_str().unwrap_or("?").chars().take(12).collect();
            let age_ms = now_ms.saturating_sub(snapshot["time_ms"].as_u64().unwrap_or(0));
            let why: Vec<String> = list(&snapshot["why"]).map(reason_words).collect();
            rows.push(vec![
                format!("  {what}"),
                id,
                format!("number {}", snapshot["seq"]),
                format!("{} old", text::seconds(age_ms as f64 / 1_000.0)),
                why.join(", "),
            ]);
        }
    }
    let mut text = format!("{}\n{}", report["service"].as_str().unwrap_or("?"), text::table(&rows));
    if !report["new_generation"].is_null() {
        let begins = if dry_run { "would become" } else { "is" };
        text.push_str(&format!("  {} {begins} the base\n", report["base"].as_str().unwrap_or("?")));
    }
    let freed = if dry_run { "would be freed" } else { "freed" };
    text.push_str(&format!(
        "  {}, {} {freed}, {} written\n",
        counted(number("packs_freed"), "pack", "packs"),
        text::bytes(number("bytes_freed")),
        text::bytes(number("bytes_rewritten")),
    ));
    if number("packs_held") > 0 {
        let packs = counted(number("packs_held"), "more pack", "more packs");
        text.push_str(&format!("  {packs}: {}\n", held(number("bytes_held"))));
    }
    text
}

/// What is said of packs that go, though not now.
pub(super) fn held(bytes: u64) -> String {
    format!("{} held until its reader is done (a mount, a gather, another command)", text::bytes(bytes))
}

/// Why a snapshot stays, in a few words.
fn reason_words(reason: &Value) -> String {
    match reason["why"].as_str().unwrap_or("?") {
        "base" => "the base's contents".to_owned(),
        "newer" => "newer than the base".to_owned(),
        "head" => "head".to_owned(),
        "newest-durable" => "newest durable".to_owned(),
        "retained" if reason["rule"] == "keep-all" => "no rule was given".to_owned(),
        "retained" => reason["rule"].as_str().unwrap_or("?").to_owned(),
        "pinned" => format!("pinned as {}", reason["name"].as_str().unwrap_or("?")),
        "needed" => "others need it".to_owned(),
        other => other.to_owned(),
    }
}
