//! `snapctl invite`: a token with which one node may join.

use clap::Args;
use serde_json::Value;
use sustain_node::admin::InviteCall;
use sustain_node::config::Duration;
use sustain_node::operations::Failure;

use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Make a token with which one new node may join the cluster
///
/// Whoever has the token can join with it, once: hand it over as you would a password. It is for the node that makes
/// it, which must run and be reachable when the new one joins. The new node gets the cluster's secret, and can read and
/// run the services; with --holder it gets none, and only holds what others seal.
///
/// Example: snapctl invite --config node-1/config.toml
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct InviteArgs {
    /// For a node that is to hold data only: it gets no secret
    #[arg(long)]
    holder: bool,

    /// How long the token is valid, by the clock of the node that makes it
    #[arg(long, value_name = "TIME", default_value = "24h")]
    valid: Duration,
}

pub(crate) fn run(args: InviteArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let call = InviteCall { holder: args.holder, valid_ms: args.valid.as_millis() };
    let value: Value = choice.client()?.post("/v1/invite", &call)?;
    output.result(&value, |value| value["token"].as_str().unwrap_or_default().to_owned())?;
    if !output.is_json() {
        output.message(&format!("it works once, within {}; on the new machine:", args.valid));
        output.message("snapctl join TOKEN --dir DIR");
    }
    Ok(0)
}
