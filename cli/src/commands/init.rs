//! `snapctl init`: keys and configurations for a new cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sustain_node::operations::Failure;
use sustain_node::{ClusterPlan, PlanError, PlannedNode};
use sustain_proto::human::counted;
use sustain_store::error_chain;

use super::demo::{GuestArgs, planned_service};
use crate::output::Output;

/// Write keys and one configuration per node, for a first try or a copy to machines
///
/// Makes DIR/node-1, DIR/node-2 and so on; nothing that exists is overwritten. A service is configured only
/// with --guest. Without --address all nodes listen on this machine. Copy each folder to its machine (the key and
/// the secret stay at mode 0600), and start it there with `snapctl node --config node-1/config.toml`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The cluster's name
    #[arg(long, value_name = "NAME", value_parser = cluster_name)]
    cluster: String,

    /// Number of nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=255))]
    nodes: u16,

    /// Where to write
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The nodes' IP addresses, in order (can be repeated) [default: 127.0.0.1 for all]
    #[arg(long = "address", value_name = "IP")]
    addresses: Vec<IpAddr>,

    /// UDP port for the nodes' traffic; on one machine each node takes the next one
    #[arg(long, default_value_t = 7411)]
    port: u16,

    /// TCP port where every node accepts the service's clients; on one machine each node takes the next one
    #[arg(long, default_value_t = 8080)]
    service_port: u16,

    /// Folder with the vmlinuz and initramfs.cpio.gz of a guest, which becomes a service [default: no service;
    /// `snapctl service add` adds any kind of one later]
    #[arg(long = "guest", value_name = "DIR")]
    folder: Option<PathBuf>,

    #[command(flatten)]
    guest: GuestArgs,
}

fn cluster_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err("a cluster needs a name of one line".to_owned());
    }
    Ok(text.to_owned())
}

pub(crate) fn run(args: InitArgs, output: &Output) -> Result<u8, Failure> {
    let plan = plan(&args)?;
    let written = plan.write(&args.dir).map_err(|error| failure(&error))?;
    warn(&args, output);
    let value = json!({
        "cluster": args.cluster,
        "nodes": written.iter().map(node_value).collect::<Vec<_>>(),
    });
    output.result(&value, |_| words(&written))?;
    Ok(0)
}

/// Says what is allowed but seldom meant.
fn warn(args: &InitArgs, output: &Output) {
    if args.folder.is_none() {
        output.message(
            "warning: no service is configured yet; `snapctl service add` adds one to each configuration",
        );
    }
    // The server itself does not count, and the promise must outlive a loss.
    let needed = args.guest.tolerance().saturating_add(2);
    if u32::from(args.nodes) < needed {
        let losses = counted(args.guest.tolerance().into(), "loss", "losses");
        output.message(&format!(
            "warning: snapshots that survive {losses} need {needed} nodes or more; nothing will be durable"
        ));
    } else if u32::from(args.nodes) == needed {
        output.message(
            "warning: once a node is lost, nothing new is durable until it is back; one node more helps",
        );
    }
}

fn plan(args: &InitArgs) -> Result<ClusterPlan, Failure> {
    let nodes = usize::from(args.nodes);
    if !args.addresses.is_empty() && args.addresses.len() != nodes {
        let given = counted(args.addresses.len() as u64, "address", "addresses");
        let nodes = counted(args.nodes.into(), "node", "nodes");
        return Err(Failure::new(2, format!("{given} for {nodes}")).with_hint("give one --address a node"));
    }
    let at = |number: usize, port: u16| -> Result<SocketAddr, Failure> {
        match args.addresses.get(number) {
            Some(address) => Ok(SocketAddr::new(*address, port)),
            None => {
                let step = u16::try_from(number).ok().and_then(|number| port.checked_add(number));
                let port =
                    step.ok_or_else(|| Failure::new(2, "there are not enough ports for so many nodes"))?;
                Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
            }
        }
    };
    let addresses = (0..nodes).map(|number| at(number, args.port)).collect::<Result<Vec<_>, _>>()?;
    let listen = (0..nodes).map(|number| at(number, args.service_port)).collect::<Result<Vec<_>, _>>()?;
    let services = match &args.folder {
        Some(folder) => vec![planned_service(&args.guest, folder, listen)?],
        None => Vec::new(),
    };
    Ok(ClusterPlan { cluster: args.cluster.clone(), addresses, services })
}

fn failure(error: &PlanError) -> Failure {
    let failure = Failure::new(1, error_chain(error));
    match error {
        PlanError::Exists { .. } => failure.with_hint("choose another --dir, or move the old cluster away"),
        _ => failure,
    }
}

fn node_value(planned: &PlannedNode) -> serde_json::Value {
    json!({
        "name": planned.node.name,
        "id": planned.node.id,
        "address": planned.node.address,
        "config": planned.config,
    })
}

fn words(written: &[PlannedNode]) -> String {
    let mut text = String::new();
    for planned in written {
        text.push_str(&format!(
            "{}  {}  {}\n",
            planned.node.name,
            planned.node.address,
            planned.config.display()
        ));
    }
    if let Some(first) = written.first() {
        text.push_str(&format!("start each with: snapctl node --config {}", first.config.display()));
    }
    text
}
