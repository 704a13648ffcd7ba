//! `snapctl key`: what services are sealed under, a copy of it for a safe place, and its change.

mod change;
mod export;
mod forget;
mod list;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sustain_node::config::{Config, SecretError};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_store::{Secrets, error_chain};

use crate::output::Output;
use crate::whereabouts::Choice;

/// List, change and export the keys that services are sealed under
///
/// Every service has a key of its own. Who lacks it can keep its snapshots, check them and hand them on, and reads
/// nothing. If it is lost, so is what was sealed under it: keep a copy (`snapctl key export`) where none of the nodes
/// is. docs/sealing.md explains it all.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    List(list::ListArgs),
    Change(change::ChangeArgs),
    Export(export::ExportArgs),
    Forget(forget::ForgetArgs),
}

pub(crate) fn run(args: KeyArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    match args.command {
        KeyCommand::List(args) => list::run(args, choice, output),
        KeyCommand::Change(args) => change::run(args, choice, output),
        KeyCommand::Export(args) => export::run(args, choice, output),
        KeyCommand::Forget(args) => forget::run(args, choice, output),
    }
}

fn secret_failure(error: &SecretError) -> Failure {
    let failure = Failure::new(1, error_chain(error));
    match error {
        SecretError::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            failure.with_hint("secrets are never overwritten: choose another name")
        }
        SecretError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::new(14, error_chain(error))
                .with_hint("put it back from a copy, or bring it from another node")
        }
        _ => failure,
    }
}

/// The file with a service's own secrets, or that of the cluster's.
fn secret_file(config: &Config, service: Option<&ServiceName>) -> Result<Option<PathBuf>, Failure> {
    let Some(name) = service else { return Ok(config.secret_file.clone()) };
    let known = config.services.iter().find(|known| known.name == *name);
    let known = known.ok_or_else(|| {
        Failure::new(10, format!("{} has no service {name} in its configuration", config.name))
            .with_hint("`snapctl service ls` lists them; without a name the cluster's secret is meant")
    })?;
    Ok(known.secret_file.clone())
}

/// Short words for what secrets are told apart by.
fn newest(secrets: &Secrets) -> String {
    secrets.newest().id().to_string()
}
