//! A service that is to be added: each node's configuration as it would be, checked before anything is written.

use std::path::PathBuf;

use sustain_node::config::{Config, ServiceConfig, add_service};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_store::error_chain;
use sustain_vmdriver::inspect_image;

use super::add::edit_failure;
use super::collision::{Listener, collision};
use super::definition::DefinitionArgs;

/// What one node would get.
#[derive(Debug)]
pub(super) struct Proposal {
    /// Its configuration file.
    pub(super) path: PathBuf,
    /// Its configuration, without the service.
    pub(super) config: Config,
    /// The service.
    pub(super) service: ServiceConfig,
    /// The file's text with the service in it.
    pub(super) text: String,
}

/// The service in each of these nodes' configurations.
///
/// Fails for whatever is wrong on every machine and never mends itself.
pub(super) fn propose(
    definition: &DefinitionArgs,
    name: &ServiceName,
    configs: Vec<(PathBuf, Config)>,
) -> Result<Vec<Proposal>, Failure> {
    refuse_strangers(&configs)?;
    let services = definition.services(name, &configs)?;
    let image = services.first().and_then(|service| service.vm.as_ref()?.disk.as_deref());
    if let Some(Err(error)) = image.map(inspect_image) {
        let hint = "`qemu-img convert -O qcow2 OLD NEW` makes an image of its own of any other";
        return Err(Failure::new(1, error_chain(&error)).with_hint(hint));
    }
    let mut proposals = Vec::new();
    for ((path, config), service) in configs.into_iter().zip(services) {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::new(1, format!("can't read {}: {error}", path.display())))?;
        let text = add_service(&text, &path, &service).map_err(|error| edit_failure(&error))?;
        proposals.push(Proposal { path, config, service, text });
    }
    refuse_collisions(&proposals)?;
    Ok(proposals)
}

/// A service is of one cluster: nodes of another one would neither hold its snapshots nor follow its server.
fn refuse_strangers(configs: &[(PathBuf, Config)]) -> Result<(), Failure> {
    let Some((first_path, first)) = configs.first() else { return Ok(()) };
    let knows = |config: &Config| {
        let own = config.own().map(|own| own.id);
        config.cluster == first.cluster && first.nodes.iter().any(|node| Some(node.id) == own)
    };
    match configs.iter().find(|(_, config)| !knows(config)) {
        None => Ok(()),
        Some((path, _)) => {
            let (path, first) = (path.display(), first_path.display());
            Err(Failure::new(1, format!("{first} and {path} are of different clusters"))
                .with_hint("run the command for each cluster by itself"))
        }
    }
}

/// Two nodes on one machine that listen on one address: the one that starts later would end at once.
fn refuse_collisions(proposals: &[Proposal]) -> Result<(), Failure> {
    let mut listeners = Vec::new();
    for proposal in proposals {
        let Some(own) = proposal.config.own() else { continue };
        for service in proposal.config.services.iter().chain([&proposal.service]) {
            listeners.extend(service.forwards.iter().map(|forward| Listener {
                node: &own.name,
                machine: own.address.ip(),
                service: &service.name,
                listen: forward.listen,
            }));
        }
    }
    let Some((one, two)) = collision(&listeners) else { return Ok(()) };
    let what = format!("{} and {} would listen on the same address of one machine", one, two);
    Err(Failure::new(1, what).with_hint(
        "nodes that share an address take the port given, the next one, and so on: leave as many ports between two \
         as there are nodes",
    ))
}
