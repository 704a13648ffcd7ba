//! `snapctl key export`: a copy for a safe place.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sustain_node::config::save_secrets;
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;

use super::secret_failure;
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::whereabouts::{Choice, Place};

/// Write a service's secrets to a new file, to be kept where none of the nodes is
///
/// Needed once after the first push, and again after each change of the key: who loses a key loses all that is sealed
/// under it. The file has mode 0600, and an existing one is never overwritten. It opens what is sealed of this service,
/// and of no other. To use it, put it back as DIR/keys/SERVICE, or name it as the service's `secret-file`.
///
/// Example: snapctl --store ./states key export mail --to /media/stick/mail.secret
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ExportArgs {
    /// The service
    service: ServiceName,

    /// The file to make
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(super) fn run(args: ExportArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let ExportArgs { service, to } = args;
    let secrets = if choice.store.is_some() {
        match choice.place(false)? {
            Place::Folder(store) => {
                store.secrets(&service).map_err(|fault| Failure::of(&fault, fault.kind()))?
            }
            Place::Daemon(_) => None,
        }
    } else {
        let (_, config) = choice.load_config()?;
        config.secrets_of(&service).map_err(|error| secret_failure(&error))?
    };
    let secrets = secrets.ok_or_else(|| {
        Failure::new(14, format!("there is no key of {service} here"))
            .with_hint("export it where it is: `snapctl key list` there names it")
    })?;
    save_secrets(&to, &secrets).map_err(|error| secret_failure(&error))?;
    let keys: Vec<String> = secrets.iter().map(|secret| secret.id().to_string()).collect();
    output.result(&json!({ "service": service, "file": to.to_string_lossy(), "keys": keys }), |_| {
        let (keys, to) = (keys.join(", "), to.display());
        format!(
            "{to} opens what is sealed of {service} (key {keys}): keep it secret, and away from the nodes"
        )
    })?;
    Ok(0)
}
