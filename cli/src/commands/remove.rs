//! `snapctl remove`: takes a node out of the cluster for ever.

use std::io::{BufRead, IsTerminal};

use clap::Args;
use serde_json::Value;
use sustain_node::admin::RemoveCall;
use sustain_node::operations::Failure;

use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Remove a node from the cluster for ever
///
/// No node talks to it any more; if it runs it is told, and stops. Its key never belongs to the cluster again: to have
/// the machine back, join with a new one. What it had admitted stays. Run it at any other node.
///
/// Example: snapctl remove attic --config node-1/config.toml
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RemoveArgs {
    /// Its name, or the beginning of its id
    node: String,

    /// Ask nothing
    #[arg(long)]
    yes: bool,

    /// Also if it is a server, or the last other node
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: RemoveArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let client = choice.client()?;
    let call = |dry_run| RemoveCall { node: args.node.clone(), force: args.force, dry_run };
    let found: Value = client.post("/v1/remove", &call(true))?;
    let shown = |value: &Value| {
        let of = |key: &str| value[key].as_str().unwrap_or("?").to_owned();
        format!("{} ({} at {})", of("name"), of("id").get(..12).unwrap_or("?"), of("address"))
    };
    if !args.yes {
        ask(&format!("remove {} for ever?", shown(&found)), output)?;
    }
    // What is removed is what was asked about, whatever is called so by now.
    let id = found["id"].as_str().unwrap_or_default().to_owned();
    let removed: Value =
        client.post("/v1/remove", &RemoveCall { node: id, force: args.force, dry_run: false })?;
    output.result(&removed, |removed| format!("removed {}", shown(removed)))?;
    Ok(0)
}

fn ask(question: &str, output: &Output) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(2, "nobody is there to be asked").with_hint("`--yes` asks nothing"));
    }
    output.message(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::new(130, "nothing was removed")),
    }
}
