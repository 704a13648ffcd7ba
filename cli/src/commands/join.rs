//! `snapctl join`: makes this machine a node of a cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use sustain_gossip::JoinError;
use sustain_node::config::{self, Config, add_service, save};
use sustain_node::operations::Failure;
use sustain_node::{JoinedError, NewNode, adopt};
use sustain_proto::Details;
use sustain_proto::ServiceName;
use sustain_proto::join::{JoinRefusal, Offered, Token};
use sustain_store::error_chain;

use super::service::as_command;
use crate::args::EXIT_CODES;
use crate::output::Output;

/// UDP port for the nodes' traffic.
const PORT: u16 = 7411;

/// Priority in elections: below those that `init` gives, so that a newcomer does not take over first.
const PRIORITY: u32 = 100;

/// Make this machine a node of the cluster that a token is for
///
/// Makes a key, calls the node that made the token, and writes DIR with key, secret, roster and configuration. Then
/// start it with `snapctl node --config DIR/config.toml`. If it breaks off, run it again with the same DIR. The
/// cluster's services are named, with what it takes to have this machine run them, too.
///
/// Example: snapctl join TOKEN --dir ~/sustain --name attic --domain upstairs
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct JoinArgs {
    /// What `snapctl invite` printed
    token: String,

    /// Where to write
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// What to call the node [default: this machine's name]
    #[arg(long)]
    name: Option<String>,

    /// Where other nodes reach it, UDP [default: the address from which it calls, port 7411]
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,

    /// Where it listens, UDP [default: its address]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,

    /// Its failure domain: nodes that one event may take together have the same, such as `upstairs`
    #[arg(long, value_name = "LABEL", default_value = "")]
    domain: String,

    /// Its priority in elections; greater is better
    #[arg(long, default_value_t = PRIORITY)]
    priority: u32,

    /// Also run the cluster's services here, as the inviter defines them, if what they need is on this machine
    #[arg(long)]
    with_services: bool,
}

/// A service of the cluster, and what became of it here.
#[derive(Debug, Serialize)]
struct Told {
    service: ServiceName,
    /// Whether it is in the new configuration.
    added: bool,
    problems: Vec<String>,
    /// What adds it.
    command: Option<String>,
}

pub(crate) fn run(args: JoinArgs, output: &Output) -> Result<u8, Failure> {
    let token: Token = args.token.parse().map_err(|error| {
        Failure::new(2, error_chain(&error)).with_hint("copy all of what `snapctl invite` printed")
    })?;
    let name = args.name.map_or_else(machine_name, Ok)?;
    let port = args.listen.map_or(PORT, |listen| listen.port());
    let address = args.address.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, port).into());
    let details = Details { name, address, domain: args.domain, priority: args.priority };
    let mut checked = details.clone();
    if checked.address.ip().is_unspecified() {
        checked.address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    checked.check().map_err(|error| Failure::new(2, error.to_string()))?;
    let node = NewNode::prepare(&args.dir).map_err(|error| local_failure(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(1, format!("can't start the runtime: {error}")))?;
    let joined = runtime.block_on(sustain_gossip::join(&node.key, &token, details));
    let mut welcome = joined.map_err(|error| failure(&error))?;
    let services = std::mem::take(&mut welcome.services);
    let (cluster, details, holder) =
        (welcome.cluster.clone(), welcome.details.clone(), welcome.secrets.is_none());
    let seed = token.addresses.first().copied().unwrap_or(details.address);
    let config = node.finish((token.inviter, seed), welcome, args.listen);
    let config = config.map_err(|error| local_failure(&error))?;
    let services = look_at_services(&services, &config, args.with_services)?;
    let value = json!({
        "cluster": cluster,
        "name": details.name,
        "id": node.key.node_id(),
        "address": details.address,
        "config": config,
        "holder": holder,
        "services": services,
    });
    output.result(&value, |_| {
        let role = if holder { "holds data of" } else { "is a node of" };
        format!(
            "{} at {} {role} cluster {cluster}\n{}start it with: snapctl node --config {}",
            details.name,
            details.address,
            services_words(&services, holder),
            config.display()
        )
    })?;
    Ok(0)
}

/// What can be made of the cluster's services here. With `add`, those that can run are added to the configuration.
fn look_at_services(services: &[Offered], path: &Path, add: bool) -> Result<Vec<Told>, Failure> {
    let config = config::load(path).map_err(|error| Failure::new(1, error_chain(&error)))?;
    services.iter().map(|offered| look_at_service(offered, path, &config, add)).collect()
}

fn look_at_service(offered: &Offered, path: &Path, config: &Config, add: bool) -> Result<Told, Failure> {
    let own = config.own().ok_or_else(|| Failure::new(1, format!("{} names no own node", path.display())))?;
    let adopted = adopt(offered, own);
    let command = adopted.service.as_ref().map(|service| as_command(service, offered.has_own_secret, path));
    let mut told = Told { service: offered.name.clone(), added: false, problems: adopted.problems, command };
    let Some(service) = adopted.service.filter(|_| add && told.problems.is_empty()) else { return Ok(told) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(1, format!("can't read {}: {error}", path.display())))?;
    // Such as a port that another service has here.
    match add_service(&text, path, &service) {
        Ok(text) => {
            save(path, &text).map_err(|error| Failure::new(1, error_chain(&error)))?;
            told.added = true;
        }
        Err(error) => told.problems.push(error_chain(&error)),
    }
    Ok(told)
}

fn services_words(services: &[Told], holder: bool) -> String {
    let mut text = String::new();
    for Told { service, added, problems, command } in services {
        text.push_str(&match (added, holder) {
            (true, _) => format!("service {service}: it may run here, too\n"),
            (false, true) => format!("service {service}: this node holds its snapshots\n"),
            (false, false) => format!("service {service}: this node does not run it\n"),
        });
        if *added || holder {
            continue;
        }
        problems.iter().for_each(|problem| text.push_str(&format!("  {problem}\n")));
        if let Some(command) = command {
            text.push_str(&format!("  to have it run here, too: {command}\n"));
        }
    }
    text
}

fn machine_name() -> Result<String, Failure> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => Err(Failure::new(2, "this machine has no name").with_hint("name the node with --name NAME")),
        name => Ok(name.to_owned()),
    }
}

fn local_failure(error: &JoinedError) -> Failure {
    let failure = Failure::new(1, error_chain(error));
    match error {
        JoinedError::Exists { .. } => failure.with_hint("a node is there already; choose another --dir"),
        _ => failure,
    }
}

const ANOTHER: &str = "make another token with `snapctl invite` at any node";

fn failure(error: &JoinError) -> Failure {
    let text = error_chain(error);
    match error {
        JoinError::Unreachable { .. } => Failure::new(12, text).with_hint(
            "does it run, and does UDP pass between the machines? The token works until it is used or expires",
        ),
        JoinError::OtherNode { .. } => Failure::new(1, text)
            .with_hint("the inviter may have moved, or this is not the cluster that you mean; ask for another token"),
        JoinError::Refused(JoinRefusal::NameTaken { .. }) => {
            Failure::new(2, text).with_hint("choose another with --name; the token is not used up")
        }
        JoinError::Refused(JoinRefusal::Removed) => {
            Failure::new(15, text).with_hint("join with a new key: another --dir, and another token")
        }
        JoinError::Refused(JoinRefusal::Other { .. }) | JoinError::Here { .. } => Failure::new(1, text),
        _ => Failure::new(1, text).with_hint(ANOTHER),
    }
}
