//! `snapctl disk-server`: the process that serves a guest's disk. Started by the node, not by people.

use std::path::PathBuf;

use clap::Args;
use sustain_node::operations::Failure;
use sustain_store::error_chain;

/// Serve a guest's disk (started by the node)
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct DiskServerArgs {
    /// The disk's folder
    folder: PathBuf,
}

pub(crate) fn run(args: &DiskServerArgs) -> Result<u8, Failure> {
    sustain_vmdriver::disk::serve(&args.folder).map_err(|error| Failure::new(1, error_chain(&error)))?;
    Ok(0)
}
