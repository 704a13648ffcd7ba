//! `snapctl pin`, `pins` and `unpin`: snapshots that stay whatever is collected.

use clap::Args;
use serde_json::Value;
use sustain_node::operations::Failure;
use sustain_node::upkeep::{self, PinCall, UnpinCall};
use sustain_proto::PinName;

use super::push::to_value;
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Keep a snapshot until it is unpinned
///
/// No rebase and no `gc` drops it in this store. A pin is of this node alone: others keep their copies by their own.
///
/// Example: snapctl --store ./states pin mail@latest --name before-upgrade
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PinArgs {
    /// An id, the beginning of one, SERVICE@latest, or SERVICE@-1 for the one before
    snapshot: String,

    /// What to call the pin [default: the beginning of the snapshot's id]
    #[arg(long)]
    name: Option<PinName>,
}

pub(crate) fn pin(args: PinArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let call = PinCall { snapshot: args.snapshot, name: args.name };
    let value = match choice.place(false)? {
        Place::Folder(store) => to_value(&upkeep::pin(&store, &call)?)?,
        Place::Daemon(client) => client.post("/v1/pin", &call)?,
    };
    output.result(&value, |value| {
        let of = |key: &str| value[key].as_str().unwrap_or("?").to_owned();
        format!("pinned {} as {}", of("snapshot"), of("name"))
    })?;
    Ok(0)
}

/// List the pins, by name
///
/// Example: snapctl --store ./states pins
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PinsArgs {}

pub(crate) fn pins(_args: PinsArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let value: Value = match choice.place(false)? {
        Place::Folder(store) => to_value(&upkeep::pins(&store)?)?,
        Place::Daemon(client) => client.get("/v1/pins")?,
    };
    output.result(&value, words)?;
    Ok(0)
}

fn words(value: &Value) -> String {
    let mut rows = vec![["pin", "service", "number", "snapshot"].map(str::to_owned).to_vec()];
    for pin in value.as_array().into_iter().flatten() {
        let of = |key: &str| pin[key].as_str().unwrap_or("-").to_owned();
        rows.push(vec![of("name"), of("service"), pin["seq"].to_string(), of("snapshot")]);
    }
    if rows.len() == 1 { "there are no pins".to_owned() } else { text::table(&rows) }
}

/// Take the pin of a snapshot away
///
/// What only the pin kept goes at the next rebase or `gc`.
///
/// Example: snapctl --store ./states unpin before-upgrade
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct UnpinArgs {
    /// The pin's name
    name: PinName,
}

pub(crate) fn unpin(args: UnpinArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let call = UnpinCall { name: args.name };
    match choice.place(false)? {
        Place::Folder(store) => upkeep::unpin(&store, &call)?,
        Place::Daemon(client) => client.post::<()>("/v1/unpin", &call)?,
    }
    output.result(&serde_json::json!({ "unpinned": call.name }), |_| format!("unpinned {}", call.name))?;
    Ok(0)
}
