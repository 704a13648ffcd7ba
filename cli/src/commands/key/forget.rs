//! `snapctl key forget`: older secrets leave a node's file when nothing there needs them.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;
use sustain_node::config::{Config, load_secrets, replace_secrets};
use sustain_node::operations::Failure;
use sustain_proto::{KeyId, ServiceName};
use sustain_store::{Secret, ServiceKeys};

use super::{secret_failure, secret_file};
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Take old secrets out of a node's file that nothing in its store is sealed under any more
///
/// Needed as the last step of a key's change, so that a node which is broken into gives away no older secret.
/// The newest one always stays, and so does every one that a snapshot here needs. Each node is asked for its own
/// store: run it on each. A store without a node (--store) does this by itself.
///
/// Example: snapctl key forget mail --config node-1/config.toml
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ForgetArgs {
    /// The service [default: the cluster's secret]
    service: Option<ServiceName>,
}

pub(super) fn run(args: ForgetArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    if choice.store.is_some() {
        return Err(Failure::new(2, "a store by itself forgets an old key when nothing needs it any more")
            .with_hint(
                "`snapctl rebase SERVICE` gets it there; `snapctl key list` shows what each key is for",
            ));
    }
    let (_, config) = choice.load_config()?;
    let service = args.service.as_ref();
    let path = secret_file(&config, service)?.ok_or_else(|| {
        Failure::new(2, "there is no file of its own with secrets to forget")
            .with_hint("without a service's name, the cluster's file is looked at")
    })?;
    let mut secrets = load_secrets(&path).map_err(|error| secret_failure(&error))?;
    let all: Vec<ServiceKeys> = choice.client()?.get("/v1/keys")?;
    let used: BTreeSet<KeyId> = used(&all);
    let is_used = |secret: &Secret| match service {
        Some(_) => used.contains(&secret.id()),
        None => services(&config, &all).iter().any(|name| used.contains(&secret.of_service(name).id())),
    };
    let mut gone = Vec::new();
    let mut kept = 0_usize;
    secrets.remove_older(|secret| {
        let goes = !is_used(secret);
        if goes {
            gone.push(secret.id())
        } else {
            kept += 1
        }
        goes
    });
    if !gone.is_empty() {
        replace_secrets(&path, &secrets).map_err(|error| secret_failure(&error))?;
    }
    output.result(
        &json!({ "file": path.to_string_lossy(), "forgotten": gone, "still_needed": kept }),
        |_| {
            let gone: Vec<String> = gone.iter().map(KeyId::to_string).collect();
            match (gone.is_empty(), kept) {
                (true, 0) => format!("{} has no older secret", path.display()),
                (true, _) => "nothing is forgotten: snapshots here need each of them".to_owned(),
                (false, _) => format!("{} is without {} now", path.display(), gone.join(", ")),
            }
        },
    )?;
    Ok(0)
}

fn used(all: &[ServiceKeys]) -> BTreeSet<KeyId> {
    all.iter().flat_map(|keys| &keys.keys).filter(|key| key.snapshots > 0).map(|key| key.id).collect()
}

/// Whatever may be sealed under a key that follows from the cluster's secret.
fn services(config: &Config, all: &[ServiceKeys]) -> BTreeSet<ServiceName> {
    let configured = config.services.iter().map(|service| service.name.clone());
    configured.chain(all.iter().map(|keys| keys.service.clone())).collect()
}
