//! `snapctl service rm`: a service is sustained no longer.

use clap::Args;
use serde_json::json;
use sustain_node::config::{Config, remove_service, save};
use sustain_node::logic::Role;
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_store::error_chain;

use super::add::edit_failure;
use super::ls::running;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Remove a service from nodes' configurations, and keep its snapshots
///
/// Refused while the service runs on one of these nodes, unless with --force. A running node must be restarted.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The service
    name: ServiceName,

    /// Remove it even while it runs here: the restart of the node then ends it
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: RmArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let configs = choice.load_configs()?;
    let mut texts = Vec::new();
    for (path, config) in &configs {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(1, format!("can't read {}: {error}", path.display())))?;
        texts.push(remove_service(&text, path, &args.name).map_err(|error| edit_failure(&error))?);
        if !args.force && runs_here(config, &args.name)? {
            let node = &config.name;
            return Err(Failure::new(11, format!("service {} runs on node {node}", args.name))
                .with_hint("stop the node first, or give --force"));
        }
    }
    for (number, ((path, _), text)) in configs.iter().zip(&texts).enumerate() {
        save(path, text).map_err(|error| {
            let failure = Failure::new(if number == 0 { 1 } else { 3 }, error_chain(&error));
            failure.with_hint(format!(
                "{number} of {} configurations are without the service now",
                configs.len()
            ))
        })?;
    }
    let stores: Vec<_> = configs.iter().map(|(_, config)| config.store.clone()).collect();
    let value = json!({
        "service": args.name,
        "configs": configs.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        "snapshots_kept_in": stores,
    });
    output.result(&value, |_| {
        let mut text = String::new();
        for (path, config) in &configs {
            let (path, store) = (path.display(), config.store.display());
            text.push_str(&format!("removed from {path}; its snapshots stay in {store}\n"));
        }
        text.push_str(
            "restart the node, if it is running, and do the same on the other nodes\n\
             snapshots of a single service can't be deleted yet: a store that holds nothing else may be removed \
             as a folder, while its node is stopped\n",
        );
        text
    })?;
    Ok(0)
}

fn runs_here(config: &Config, name: &ServiceName) -> Result<bool, Failure> {
    let Some(status) = running(config)? else { return Ok(false) };
    let runs = |role: Role| !matches!(role, Role::Candidate | Role::Electing);
    let mut services = status.services.iter().filter(|service| service.service == *name);
    Ok(services.any(|service| runs(service.role) || service.vm_pid.is_some()))
}
