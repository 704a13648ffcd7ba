//! `snapctl key change`: the next rebase seals everything under a new key.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use sustain_node::config::{Config, give_secret, load_secrets, replace_secrets, save, save_secrets};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_store::{ChangeKeyError, Secret, Secrets, error_chain};

use super::{newest, secret_failure, secret_file};
use crate::args::EXIT_CODES;
use crate::commands::service::edit_failure;
use crate::output::Output;
use crate::whereabouts::{Choice, Place};

/// Have the next rebase seal everything that stays under a new key
///
/// Until then the old key is needed, and afterwards it opens nothing that is here. In a store (--store) the old one
/// then goes by itself. In a cluster (--config) a new secret is added to the service's own file, or to the cluster's
/// where no service is named; a service that has no file of its own gets one. Copy the file to every node that is to
/// run the service before you restart any: a node that lacks the new secret keeps what comes, and can't run it.
/// Several --config change the nodes that are on this machine.
///
/// Example, of a store: snapctl --store ./states key change mail
///
/// Example, of two nodes: snapctl key change mail --config node-1/config.toml --config node-2/config.toml
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ChangeArgs {
    /// The service [default: the cluster's secret, from which keys of services follow that have no file of their own]
    service: Option<ServiceName>,
}

pub(super) fn run(args: ChangeArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    if choice.store.is_some() { in_store(args, choice, output) } else { in_cluster(&args, choice, output) }
}

fn in_store(args: ChangeArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let service = args.service.ok_or_else(|| {
        Failure::new(2, "no service given")
            .with_hint("name the service whose key is to change; `snapctl key list` lists them")
    })?;
    let Place::Folder(store) = choice.place(false)? else {
        return Err(Failure::new(2, "no store given").with_hint("name it with --store DIR"));
    };
    let key = store.change_key(&service).map_err(|error| {
        let failure = Failure::of(&error, error.kind());
        match error {
            ChangeKeyError::TooMany { .. } => failure.with_hint(format!("`snapctl rebase {service}` first")),
            _ => failure,
        }
    })?;
    output.result(&json!({ "service": service, "key": key }), |_| {
        format!(
            "the next rebase of {service} seals everything under key {key}; `snapctl rebase {service}` does it now\n\
             both keys are needed until then; export them anew for your safe place"
        )
    })?;
    Ok(0)
}

/// One node's file, and what is in it.
struct File {
    path: PathBuf,
    before: Option<Secrets>,
}

fn in_cluster(args: &ChangeArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let configs = choice.load_configs()?;
    let service = args.service.as_ref();
    let files = configs.iter().map(|(path, config)| file_of(path, config, service));
    let files: Vec<File> = files.collect::<Result<_, _>>()?;
    if files.iter().any(|file| file.before != files[0].before) {
        return Err(Failure::new(14, "these nodes do not have the same secrets")
            .with_hint("copy the file of the node that runs the service to the others, and try again"));
    }
    let new = Secret::generate().map_err(|fault| Failure::of(&fault, fault.kind()))?;
    let secrets = match files[0].before.clone() {
        None => Secrets::one(new),
        Some(mut secrets) => {
            let hint = "let the services rebase, and then `snapctl key forget` the old ones";
            let added = secrets.add(new);
            added.map_err(|error| Failure::new(2, error.to_string()).with_hint(hint))?;
            secrets
        }
    };
    for (file, (path, _)) in files.iter().zip(&configs) {
        match (&file.before, service) {
            (None, Some(service)) => begin_own(path, service, &file.path, &secrets)?,
            _ => replace_secrets(&file.path, &secrets).map_err(|error| secret_failure(&error))?,
        }
    }
    let paths: Vec<_> = files.iter().map(|file| file.path.to_string_lossy()).collect();
    let value = json!({ "service": service, "key": secrets.newest().id(), "files": paths });
    output.result(&value, |_| words(service, &secrets, &files))?;
    Ok(0)
}

fn file_of(path: &Path, config: &Config, service: Option<&ServiceName>) -> Result<File, Failure> {
    match (secret_file(config, service)?, service) {
        (Some(path), _) => {
            let before = load_secrets(&path).map_err(|error| secret_failure(&error))?;
            Ok(File { path, before: Some(before) })
        }
        (None, Some(service)) => Ok(File { path: path.with_file_name(own_name(service)), before: None }),
        (None, None) => Err(Failure::new(14, format!("{} has no `secret-file`", config.name))
            .with_hint("run it where the secret is, or name a service")),
    }
}

fn own_name(service: &ServiceName) -> String {
    format!("{service}.secret")
}

/// The file comes first: a configuration that names one which is not there has the node keep, and not run.
fn begin_own(config: &Path, service: &ServiceName, file: &Path, secrets: &Secrets) -> Result<(), Failure> {
    save_secrets(file, secrets).map_err(|error| secret_failure(&error))?;
    let text = std::fs::read_to_string(config)
        .map_err(|error| Failure::new(1, format!("can't read {}: {error}", config.display())))?;
    let text = give_secret(&text, config, service, &own_name(service));
    let text = text.map_err(|error| edit_failure(&error))?;
    save(config, &text).map_err(|error| Failure::new(1, error_chain(&error)))
}

fn words(service: Option<&ServiceName>, secrets: &Secrets, files: &[File]) -> String {
    let mut text = String::new();
    for file in files {
        text.push_str(&format!("{} has a new secret, {}\n", file.path.display(), newest(secrets)));
    }
    if let (Some(service), true) = (service, files.iter().any(|file| file.before.is_none())) {
        let name = own_name(service);
        text.push_str(&format!("each node's configuration needs `secret-file = \"{name}\"` for {service}\n"));
    }
    text.push_str(
        "1. copy the file, mode 0600, to every node that is to run it, before any is restarted\n\
         2. restart the nodes one after the other; the next rebase seals everything under the new key\n\
         3. `snapctl key list` on each node says when nothing is sealed under the old one\n\
         4. then `snapctl key forget` takes it out of the file; export the new one for your safe place",
    );
    text
}
