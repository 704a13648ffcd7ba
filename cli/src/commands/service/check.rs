//! `snapctl service check`: what a service would be, take and cost, before anything starts.

use clap::Args;
use sustain_node::config::{Config, ServiceConfig};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;

use super::definition::DefinitionArgs;
use super::explain::{Explanation, explain};
use super::host::{HostView, look_at_host};
use super::ls::is_served;
use super::proposal::propose;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Explain type, policy and cost of a service, and whether this node can run it
///
/// Of the services in the configuration, or of the one that the options describe: what `service add` refuses is
/// refused here, too. Nothing is started or changed. Ends with 1 if something keeps it from running on this node.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The service [default: all that are configured]
    name: Option<ServiceName>,

    #[command(flatten)]
    definition: DefinitionArgs,
}

pub(super) fn run(args: CheckArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let configs = choice.load_configs()?;
    let wanted: Vec<(Config, ServiceConfig)> = if args.definition.is_given() {
        let name = args.name.ok_or_else(|| {
            Failure::new(2, "the service has no name")
                .with_hint("give one before the options, as for `service add`")
        })?;
        let proposals = propose(&args.definition, &name, configs)?;
        proposals.into_iter().map(|proposal| (proposal.config, proposal.service)).collect()
    } else {
        let mut wanted = Vec::new();
        for (_, config) in configs {
            let services = chosen(&config, args.name.as_ref())?;
            wanted.extend(services.into_iter().map(|service| (config.clone(), service)));
        }
        wanted
    };
    let mut found: Vec<Explanation> = Vec::new();
    let mut looked: Option<(ServiceConfig, HostView)> = None;
    for (config, service) in &wanted {
        // Only the ports differ between nodes of one machine, and a look takes a second.
        let host = match looked.take() {
            Some((before, host)) if before.vm == service.vm && before.command == service.command => host,
            _ => look_at_host(service),
        };
        found.push(explain(config, service, &host, is_served(config, service, output)));
        looked = Some((service.clone(), host));
    }
    output.result(&found, |found| {
        if found.is_empty() {
            return "no service is configured; `snapctl service add` adds one".to_owned();
        }
        found.iter().map(Explanation::words).collect::<Vec<_>>().join("\n")
    })?;
    Ok(u8::from(found.iter().any(|explanation| !explanation.problems.is_empty())))
}

fn chosen(config: &Config, name: Option<&ServiceName>) -> Result<Vec<ServiceConfig>, Failure> {
    let wanted = |service: &&ServiceConfig| name.is_none_or(|name| service.name == *name);
    let services: Vec<ServiceConfig> = config.services.iter().filter(wanted).cloned().collect();
    match name {
        Some(name) if services.is_empty() => {
            Err(Failure::new(10, format!("no service {name} is configured"))
                .with_hint("describe it with the options of `service add`, or see `service ls`"))
        }
        _ => Ok(services),
    }
}
