//! `snapctl verify`: everything is read and checked.

use clap::Args;
use serde_json::Value;
use sustain_node::operations::{self, Failure};
use sustain_proto::human::counted;

use super::push::to_value;
use crate::output::Output;
use crate::progress::Bar;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Read and check everything in the store
///
/// Exits with 13 and names every file that is damaged.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {}

pub(crate) fn run(_args: VerifyArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let value: Value = match choice.place(false)? {
        Place::Folder(store) => {
            let bar = Bar::new("verify", output.is_json());
            let report = operations::verify(&store, &bar);
            bar.finish();
            to_value(&report?)?
        }
        Place::Daemon(client) => client.post("/v1/verify", &Value::Null)?,
    };
    output.result(&value, words)?;
    let good = value["bad"].as_array().is_none_or(Vec::is_empty);
    Ok(if good { 0 } else { 13 })
}

fn words(value: &Value) -> String {
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    let mut text = String::new();
    for bad in value["bad"].as_array().into_iter().flatten() {
        let of = |key: &str| bad[key].as_str().unwrap_or("?");
        text.push_str(&format!("bad: {}: {}\n", of("path"), of("reason")));
    }
    let sealed = match number("packs_sealed") {
        0 => String::new(),
        sealed => format!(" ({sealed} of them sealed, without their key here)"),
    };
    text.push_str(&format!(
        "{}, {}{sealed}, {}, {} read: {}",
        counted(number("snapshots"), "snapshot", "snapshots"),
        counted(number("packs"), "pack", "packs"),
        counted(number("chunks"), "chunk", "chunks"),
        text::bytes(number("bytes")),
        if text.is_empty() { "all good" } else { "damaged, see above" },
    ));
    text
}
