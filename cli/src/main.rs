//! `snapctl`: keeps an unmodified service alive through catastrophe on ordinary computers.
//!
//! One file per command in `commands`; what they do lives in the other crates. Standard output is for data,
//! everything else goes to standard error.

mod args;
mod client;
mod commands;
mod cores;
mod demo;
mod interrupt;
mod output;
mod progress;
mod sizes;
mod text;
mod whereabouts;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    start_logging(&cli.command);
    match run(cli, &output) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code)
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<u8, sustain_node::operations::Failure> {
    let place = whereabouts::Choice { store: cli.store, config: cli.config };
    match cli.command {
        Command::Push(args) => commands::push::run(args, &place, output),
        Command::Gather(args) => commands::gather::run(args, &place, output),
        Command::Rebase(args) => commands::rebase::run(args, &place, output),
        Command::Gc(args) => commands::gc::run(args, &place, output),
        Command::Pin(args) => commands::pin::pin(args, &place, output),
        Command::Pins(args) => commands::pin::pins(args, &place, output),
        Command::Unpin(args) => commands::pin::unpin(args, &place, output),
        Command::Key(args) => commands::key::run(args, &place, output),
        Command::Log(args) => commands::log::run(args, &place, output),
        Command::Verify(args) => commands::verify::run(args, &place, output),
        Command::Mount(args) => commands::mount::run(&args, &place, output),
        Command::Cat(args) => commands::cat::run(&args, &place, output),
        Command::Diff(args) => commands::diff::run(&args, &place, output),
        Command::Plan(args) => {
            place.refuse("plan")?;
            commands::plan::run(&args, output)
        }
        Command::Init(args) => {
            place.refuse("init")?;
            commands::init::run(args, output)
        }
        Command::Node(args) => commands::node::run(args, &place, output),
        Command::Status(args) => commands::status::run(args, &place, output),
        Command::Invite(args) => commands::invite::run(args, &place, output),
        Command::Join(args) => {
            place.refuse("join")?;
            commands::join::run(args, output)
        }
        Command::Remove(args) => commands::remove::run(args, &place, output),
        Command::Service(args) => commands::service::run(args, &place, output),
        Command::Demo(args) => {
            place.refuse("demo")?;
            commands::demo::run(args, output)
        }
        Command::DiskServer(args) => commands::disk_server::run(&args),
    }
}

/// Logs go to standard error: a daemon's from `info` on, a command's warnings only. `SUSTAIN_LOG` changes it.
fn start_logging(command: &Command) {
    let usual = if matches!(command, Command::Node(_)) { "info" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SUSTAIN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
}
