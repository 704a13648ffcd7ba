//! `snapctl key list`: which keys there are, and what needs them.

use clap::Args;
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_store::{KeyInfo, ServiceKeys};

use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// List the keys by their ids, what each is for, and which are missing
///
/// An id tells a key from others and reveals nothing of it; every manifest carries the one that it is sealed under.
/// Ends with 14 if a key is missing that snapshots here are sealed under. Needed when a command ends with 14, and after
/// `key change`: it says when nothing is sealed under the old key any more, and so when `key forget` may follow.
///
/// Example: snapctl --store ./states key list mail
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ListArgs {
    /// The service [default: all]
    service: Option<ServiceName>,
}

pub(super) fn run(args: ListArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let mut all: Vec<ServiceKeys> = match choice.place(false)? {
        Place::Folder(store) => store.all_keys(),
        Place::Daemon(client) => client.get("/v1/keys")?,
    };
    if let Some(service) = &args.service {
        all.retain(|keys| keys.service == *service);
        if all.is_empty() {
            return Err(Failure::new(10, format!("nothing of {service} is here, and no key of it"))
                .with_hint("`snapctl key list` without a name lists all"));
        }
    }
    output.result(&all, |all| words(all))?;
    let is_missing = all.iter().flat_map(|keys| &keys.keys).any(|key| !key.here);
    Ok(if is_missing { 14 } else { 0 })
}

fn words(all: &[ServiceKeys]) -> String {
    let mut rows = vec![["service", "key", "snapshots", "use"].map(str::to_owned).to_vec()];
    for keys in all {
        for key in &keys.keys {
            let of = (keys.service.to_string(), key.id.to_string(), key.snapshots.to_string());
            rows.push(vec![of.0, of.1, of.2, purpose(key).to_owned()]);
        }
        if !keys.can_seal() {
            let what = "no key here: nothing of it can be sealed or run here";
            rows.push(vec![keys.service.to_string(), "-".to_owned(), "-".to_owned(), what.to_owned()]);
        }
    }
    if rows.len() == 1 { "there are no keys".to_owned() } else { text::table(&rows) }
}

const fn purpose(key: &KeyInfo) -> &'static str {
    match (key.here, key.seals, key.snapshots) {
        (false, ..) => "missing: what it sealed is kept, checked and handed on, and can't be read here",
        (true, true, 0) => "seals everything at the next rebase",
        (true, true, _) => "seals",
        (true, false, 0) => "nothing here is sealed under it",
        (true, false, _) => "only opens, until a rebase has sealed everything anew",
    }
}
