//! `snapctl rebase`: the newest snapshot becomes the base.

use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use sustain_node::admin::ServiceCall;
use sustain_node::operations::{self, Failure};
use sustain_proto::ServiceName;
use sustain_store::{RebaseReport, Store};

use super::push::to_value;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Between two looks whether the work is done or the user wants it to end.
const LOOK: Duration = Duration::from_millis(10);

/// Make the newest snapshot the base of a new generation, and drop the older ones
///
/// This is how space is freed: what only older snapshots needed goes. What is kept restores as before, and
/// the promoted snapshot is still found under its old id.
#[derive(Debug, Args)]
pub(crate) struct RebaseArgs {
    /// The service
    service: ServiceName,
}

pub(crate) fn run(args: RebaseArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let value = match choice.place(false)? {
        Place::Folder(store) => to_value(&rebase_here(store, args.service)?)?,
        Place::Daemon(client) => client.post("/v1/rebase", &ServiceCall { service: args.service })?,
    };
    output.result(&value, words)?;
    Ok(0)
}

/// Rebases on a thread of its own, which ends with the process if the user does not want to wait. That is as good as
/// any other end: the old generation is whole until the new one is.
fn rebase_here(store: Store, service: ServiceName) -> Result<RebaseReport, Failure> {
    let interrupt = Interrupt::watch();
    let broken = |what: &str| Failure::new(1, format!("the rebase has broken off: {what}"));
    let work = thread::Builder::new()
        .name("rebase".to_owned())
        .spawn(move || operations::rebase(&store, &service))
        .map_err(|error| broken(&error.to_string()))?;
    while !work.is_finished() {
        if interrupt.is_set() {
            return Err(Failure::new(
                130,
                "interrupted; nothing was lost: the store is as it was, or rebased already",
            ));
        }
        thread::sleep(LOOK);
    }
    work.join().map_err(|_| broken("it panicked"))?
}

fn words(value: &Value) -> String {
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
    text.push_str(&format!("{} freed", text::bytes(value["bytes_freed"].as_u64().unwrap_or(0))));
    text
}
