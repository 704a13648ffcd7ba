//! `snapctl push`: a snapshot from files.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use sustain_node::admin::PushCall;
use sustain_node::operations::{self, Failure, PushFiles, RegionFile};
use sustain_proto::human::counted;
use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId};

use super::wait::{Losses, until_safe};
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::progress::Bar;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Take a snapshot from files
///
/// Each file becomes a region of the snapshot. Only chunks that no earlier snapshot of the service has are
/// stored. Whoever knows what changed in a file says so by --changed, and then only that is read. With --store the
/// store is made if need be. Otherwise the node stores the snapshot, and it spreads in the background; with --wait this
/// command ends when it has.
///
/// Example: snapctl --store ./states push mail --region ram=ram.img --region disk0=disk.img
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PushArgs {
    /// The service whose state it is
    service: ServiceName,

    /// A region's name and file (can be repeated)
    #[arg(long = "region", value_name = "NAME=FILE", required = true, value_parser = parse_region)]
    regions: Vec<RegionFile>,

    /// A region's name and a list of what changed in its file since the newest snapshot: on each line the offset and
    /// the length of a range, in bytes (can be repeated). Nothing else of the file is read: where the list is silent,
    /// the snapshot has what the newest one has, whatever the file holds
    #[arg(long = "changed", value_name = "NAME=LIST", value_parser = parse_region)]
    changed: Vec<RegionFile>,

    /// The snapshot that the lists count from: refuse the push if a newer one was pushed meanwhile
    #[arg(long, value_name = "SNAPSHOT", requires = "changed")]
    since: Option<String>,

    /// Wait until the snapshot survives so many losses of nodes besides that of the node that stores it: a number, or
    /// `durable` for the usual one
    #[arg(long, value_name = "LOSSES")]
    wait: Option<Losses>,

    /// For how long to wait; the snapshot stays and goes on spreading after that
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
}

fn parse_region(text: &str) -> Result<RegionFile, String> {
    let (name, path) = text.split_once('=').ok_or("it must be NAME=FILE, such as ram=memory.img")?;
    let name: RegionName = name.parse().map_err(|error| format!("{error}"))?;
    if path.is_empty() {
        return Err("the file's name is missing".to_owned());
    }
    Ok(RegionFile { name, path: path.into(), changed: None })
}

/// Gives each list to its region.
fn with_lists(mut regions: Vec<RegionFile>, lists: Vec<RegionFile>) -> Result<Vec<RegionFile>, Failure> {
    for RegionFile { name, path, .. } in lists {
        let Some(region) = regions.iter_mut().find(|region| region.name == name) else {
            return Err(Failure::new(2, format!("--changed names {name}, which is no region of this push"))
                .with_hint(format!("give its file too: --region {name}=FILE")));
        };
        if region.changed.replace(path).is_some() {
            return Err(Failure::new(2, format!("--changed names {name} twice")));
        }
    }
    Ok(regions)
}

pub(crate) fn run(args: PushArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let PushArgs { service, regions, changed, since, wait, timeout } = args;
    let regions = with_lists(regions, changed)?;
    let value = match choice.place(true)? {
        Place::Folder(_) if wait.is_some() => {
            return Err(Failure::new(2, "--wait takes a node: a folder has no other nodes to spread to")
                .with_hint("leave out --store, or --wait"));
        }
        Place::Folder(store) => {
            let bar = Bar::new("push", output.is_json());
            // A lone store has no nodes: its snapshots are of the node of no name.
            let lone = NodeId::from_bytes([0; 32]);
            let files = PushFiles { service: &service, regions: &regions, since: since.as_deref() };
            let pushed = operations::push(&store, &files, lone, &bar);
            bar.finish();
            to_value(&pushed?)?
        }
        Place::Daemon(client) => {
            let regions = regions.into_iter().map(absolute).collect::<Result<_, _>>()?;
            let mut value: Value = client.post("/v1/push", &PushCall { service, regions, since })?;
            if let Some(losses) = wait {
                let patience = Duration::from_secs(timeout);
                value["survives"] =
                    until_safe(&client, pushed_id(&value)?, (losses, patience), output)?.into();
            }
            value
        }
    };
    for region in value["regions_left_out"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output.message(&format!(
            "warning: the snapshot before has a region {region}, and this one is without it: --region {region}=FILE"
        ));
    }
    output.result(&value, words)?;
    Ok(0)
}

fn pushed_id(value: &Value) -> Result<SnapshotId, Failure> {
    let id = value["snapshot"].as_str().and_then(|id| id.parse().ok());
    id.ok_or_else(|| Failure::new(1, "the node does not say which snapshot it has stored"))
}

/// A daemon has another working folder.
fn absolute(region: RegionFile) -> Result<RegionFile, Failure> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))
    };
    let changed = region.changed.map(absolute).transpose()?;
    Ok(RegionFile { name: region.name, path: absolute(region.path)?, changed })
}

/// A result as JSON, so that local and remote ones are printed alike.
pub(super) fn to_value(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::new(1, format!("can't make JSON: {error}")))
}

fn words(value: &Value) -> String {
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    let survives = match value["survives"].as_u64() {
        Some(losses) => format!(", survives {} besides the node's", counted(losses, "loss", "losses")),
        None => String::new(),
    };
    format!(
        "snapshot {} (number {}): {} in, {} new in {}, {} changed, {}{survives}",
        value["snapshot"].as_str().unwrap_or("?"),
        number("seq"),
        text::bytes(number("bytes_in")),
        text::bytes(number("bytes_new")),
        counted(number("chunks_new"), "chunk", "chunks"),
        counted(number("chunks_changed"), "chunk", "chunks"),
        text::seconds(value["seconds"].as_f64().unwrap_or(0.0)),
    )
}
