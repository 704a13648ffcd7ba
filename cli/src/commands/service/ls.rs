//! `snapctl service ls`: the configured services.

use clap::Args;
use serde::Serialize;
use sustain_node::admin::NodeStatus;
use sustain_node::config::{Config, DriverKind, ForwardConfig, ServiceConfig, ServiceType};
use sustain_node::logic::Role;
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;

use crate::client::Client;
use crate::output::Output;
use crate::text;
use crate::whereabouts::Choice;

/// List the services of a node's configuration
///
/// With this node's role for each, if it is running.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {}

#[derive(Debug, Serialize)]
struct Row {
    service: ServiceName,
    #[serde(rename = "type")]
    kind: ServiceType,
    driver: DriverKind,
    memory_bytes: Option<u64>,
    disk: Option<std::path::PathBuf>,
    command_folder: Option<std::path::PathBuf>,
    forwards: Vec<ForwardConfig>,
    first_server: String,
    /// None where no daemon answers, or where it does not know the service yet.
    role: Option<Role>,
}

/// What the node's daemon says, if one is running. One that does not answer is a failure.
pub(super) fn running(config: &Config) -> Result<Option<NodeStatus>, Failure> {
    let client = Client::new(config.admin_socket.clone());
    match client.get("/v1/status") {
        Ok(status) => Ok(Some(status)),
        Err(failure) if client.is_there() => Err(failure),
        Err(_) => Ok(None),
    }
}

/// The same for those who can do without, and say so.
fn running_or_said(config: &Config, output: &Output) -> Option<NodeStatus> {
    running(config).unwrap_or_else(|failure| {
        output.message(&format!("warning: {}", failure.error));
        None
    })
}

/// Whether the node's daemon runs with this service already, and so has its ports.
pub(super) fn is_served(config: &Config, service: &ServiceConfig, output: &Output) -> bool {
    let status = running_or_said(config, output);
    status.is_some_and(|status| status.services.iter().any(|known| known.service == service.name))
}

pub(super) fn run(_args: LsArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let (_, config) = choice.load_config()?;
    let status = running_or_said(&config, output);
    let role = |service: &ServiceConfig| {
        let services = status.iter().flat_map(|status| &status.services);
        services.filter(|known| known.service == service.name).map(|known| known.role).next()
    };
    let row = |service: &ServiceConfig| Row {
        service: service.name.clone(),
        kind: service.kind,
        driver: service.driver,
        memory_bytes: service.vm.as_ref().map(|vm| vm.memory.get()),
        disk: service.vm.as_ref().and_then(|vm| vm.disk.clone()),
        command_folder: service.command.as_ref().map(|command| command.folder.clone()),
        forwards: service.forwards.clone(),
        first_server: service.first_server.clone(),
        role: role(service),
    };
    let rows: Vec<Row> = config.services.iter().map(row).collect();
    output.result(&rows, |rows| words(rows))?;
    Ok(0)
}

fn words(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no service is configured; `snapctl service add` adds one".to_owned();
    }
    let header = ["service", "type", "driver", "memory", "runs", "forwards", "first server", "role here"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    let none = || "-".to_owned();
    for row in rows {
        let runs = row.disk.as_ref().or(row.command_folder.as_ref());
        let forwards: Vec<String> = row
            .forwards
            .iter()
            .map(|forward| format!("{} to {}", forward.listen, forward.guest_port))
            .collect();
        table.push(vec![
            row.service.to_string(),
            row.kind.to_string(),
            row.driver.as_str().to_owned(),
            row.memory_bytes.map_or_else(none, text::bytes),
            runs.map_or_else(|| "a kernel".to_owned(), |path| path.display().to_string()),
            if forwards.is_empty() { none() } else { forwards.join(", ") },
            row.first_server.clone(),
            row.role.map_or_else(none, |role| role.as_str().to_owned()),
        ]);
    }
    text::table(&table)
}
