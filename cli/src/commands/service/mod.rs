//! `snapctl service`: what is sustained, and what it would take.

mod add;
mod as_command;
mod check;
mod collision;
mod definition;
mod explain;
mod host;
mod kernel;
mod ls;
mod proposal;
mod rm;

pub(crate) use add::edit_failure;
pub(crate) use as_command::as_command;

use clap::{Args, Subcommand};
use sustain_node::operations::Failure;

use crate::output::Output;
use crate::whereabouts::Choice;

/// Add, remove, list and check services in a node's configuration
///
/// A service is a disk image (or a kernel) that runs as a virtual machine, or a folder of programs of your own
/// that run anything else. Every node of the cluster needs the same service in its configuration: give several
/// --config to change those that are on this machine, and run the same command on the others.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    Add(add::AddArgs),
    Rm(rm::RmArgs),
    Ls(ls::LsArgs),
    Check(check::CheckArgs),
}

pub(crate) fn run(args: ServiceArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    match args.command {
        ServiceCommand::Add(args) => add::run(args, choice, output),
        ServiceCommand::Rm(args) => rm::run(args, choice, output),
        ServiceCommand::Ls(args) => ls::run(args, choice, output),
        ServiceCommand::Check(args) => check::run(args, choice, output),
    }
}
