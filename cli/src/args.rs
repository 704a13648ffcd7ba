//! The command line's grammar.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands;

/// Keep a service alive through the loss of its computer
///
/// A service runs in a virtual machine on one node of a cluster. Its whole state is snapshotted again and
/// again, stored as deltas, and spread over the other nodes. When the node is lost, another one restores the
/// newest state and serves on.
///
/// Try it: `snapctl demo`
#[derive(Debug, Parser)]
#[command(name = "snapctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Work on the store in this folder, without a daemon: push, gather, rebase, gc, pin, pins, unpin, log,
    /// verify, mount, cat, diff and key
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "config", help_heading = GLOBAL)]
    pub(crate) store: Option<PathBuf>,

    /// Talk to the daemon with this configuration; service add, rm and check and key change take several [default:
    /// $SUSTAIN_CONFIG, ~/.config/sustain/config.toml, /etc/sustain/config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) config: Vec<PathBuf>,

    /// Print JSON: one object; an array by log, pins, key list, service ls and check; one object a line by demo
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Push(commands::push::PushArgs),
    Gather(commands::gather::GatherArgs),
    Rebase(commands::rebase::RebaseArgs),
    Gc(commands::gc::GcArgs),
    Pin(commands::pin::PinArgs),
    Pins(commands::pin::PinsArgs),
    Unpin(commands::pin::UnpinArgs),
    Key(commands::key::KeyArgs),
    Log(commands::log::LogArgs),
    Verify(commands::verify::VerifyArgs),
    Mount(commands::mount::MountArgs),
    Cat(commands::cat::CatArgs),
    Diff(commands::diff::DiffArgs),
    Plan(commands::plan::PlanArgs),
    Init(commands::init::InitArgs),
    Node(commands::node::NodeArgs),
    Status(commands::status::StatusArgs),
    Invite(commands::invite::InviteArgs),
    Join(commands::join::JoinArgs),
    Remove(commands::remove::RemoveArgs),
    Service(commands::service::ServiceArgs),
    Demo(commands::demo::DemoArgs),
    DiskServer(commands::disk_server::DiskServerArgs),
}

const GLOBAL: &str = "Global options";

/// Printed by every command that works on a store, too.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0 done              10 no such store or snapshot   12 node unreachable
  1 failed            11 busy                        13 corrupt or unverifiable data
  2 wrong usage       3 partly done                  14 key missing, or another one
                      130 interrupted                15 node removed from its cluster
  Any other code means failure.";
