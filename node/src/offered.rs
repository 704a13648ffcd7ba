//! Services as a node that joins is told of them, and what that node makes of it.

use std::path::Path;

use sustain_proto::join::Offered;
use sustain_proto::limits;

use crate::config::{NodeConfig, ServiceConfig};

/// What is told of a service. Its secret is not, nor where that is.
pub(crate) fn offered(service: &ServiceConfig) -> Offered {
    let told = ServiceConfig { secret_file: None, ..service.clone() };
    Offered {
        name: service.name.clone(),
        has_own_secret: service.secret_file.is_some(),
        definition: toml::to_string(&told).ok(),
    }
}

/// A service of the cluster, looked at by a node that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoptable {
    /// As it would be in the node's configuration: its ports are at the node's own address.
    pub service: Option<ServiceConfig>,
    /// What keeps it from running here as it is.
    pub problems: Vec<String>,
}

/// What a node with this entry can make of a service that it was told of.
#[must_use]
pub fn adopt(offered: &Offered, own: &NodeConfig) -> Adoptable {
    let none = |problem: &str| Adoptable { service: None, problems: vec![problem.to_owned()] };
    let Some(text) = &offered.definition else {
        return none("how it is defined was not told");
    };
    if text.len() > limits::DEFINITION_BYTES_MAX {
        return none("its definition is too long");
    }
    let Ok(mut service) = toml::from_str::<ServiceConfig>(text) else {
        return none("its definition makes no sense to this version");
    };
    if service.name != offered.name || service.secret_file.is_some() {
        return none("its definition is not that of such a service");
    }
    let mut problems = Vec::new();
    if offered.has_own_secret {
        problems.push("it has a secret of its own, which is to be brought here by hand".to_owned());
    }
    for forward in &mut service.forwards {
        forward.listen.set_ip(own.address.ip());
    }
    // The disk's image is read by the first server alone, when it begins the service.
    let vm = service.vm.iter().flat_map(|vm| [&vm.kernel, &vm.initramfs]).flatten();
    problems.extend(vm.filter_map(|path| lacking(path, Path::is_file, "file")));
    let folders = service.command.iter().map(|command| &command.folder);
    problems.extend(folders.filter_map(|path| lacking(path, Path::is_dir, "folder")));
    Adoptable { service: Some(service), problems }
}

/// Whether something that runs is not here. A path that is none from the root would mean another place here.
fn lacking(path: &Path, is_there: fn(&Path) -> bool, what: &str) -> Option<String> {
    if path.is_absolute() && is_there(path) {
        return None;
    }
    Some(format!("there is no {what} {} on this machine", path.display()))
}

#[cfg(test)]
mod tests {
    use sustain_proto::{NodeId, ServiceName};

    use super::*;
    use crate::config::{CommandConfig, DriverKind, ForwardConfig, ServiceType};

    fn service(folder: std::path::PathBuf) -> ServiceConfig {
        let listen = "192.0.2.1:2525".parse().unwrap();
        ServiceConfig {
            name: ServiceName::new("mail").unwrap(),
            first_server: "north".to_owned(),
            kind: ServiceType::Mergeable,
            secret_file: None,
            interval: ServiceConfig::default_interval(),
            tolerance: 2,
            rebase_after: 7,
            rebase_delta_percent: 100,
            rebase_dead_percent: 100,
            keep_last: 3,
            keep_hourly: 0,
            keep_daily: 0,
            driver: DriverKind::Command,
            forwards: vec![ForwardConfig { listen, guest_port: std::num::NonZeroU16::MAX }],
            vm: None,
            command: Some(CommandConfig {
                folder,
                snapshot_timeout: CommandConfig::default_snapshot_timeout(),
                start_timeout: CommandConfig::default_start_timeout(),
            }),
        }
    }

    fn own() -> NodeConfig {
        NodeConfig {
            name: "attic".to_owned(),
            id: NodeId::from_bytes([1; 32]),
            address: "198.51.100.7:7411".parse().unwrap(),
            priority: 1,
            domain: String::new(),
        }
    }

    #[test]
    fn a_service_is_adopted_as_it_is_but_for_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path().to_owned());
        let adopted = adopt(&offered(&service), &own());
        assert_eq!(adopted.problems, Vec::<String>::new());
        let mut expected = service;
        expected.forwards[0].listen = "198.51.100.7:2525".parse().unwrap();
        assert_eq!(adopted.service, Some(expected));
    }

    #[test]
    fn what_is_not_here_is_named_and_no_secret_is_told() {
        let mut service = service("/nowhere/programs".into());
        service.secret_file = Some("/etc/mail.secret".into());
        let told = offered(&service);
        assert!(told.has_own_secret && !told.definition.as_ref().unwrap().contains("secret"));
        let problems = adopt(&told, &own()).problems;
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[1].contains("no folder /nowhere/programs"), "{problems:?}");
        service.command.as_mut().unwrap().folder = "programs".into();
        assert_eq!(adopt(&offered(&service), &own()).problems.len(), 2, "not from this folder");
    }

    #[test]
    fn strange_definitions_are_refused() {
        let good = offered(&service("/".into()));
        let with = |definition: &str| Offered { definition: Some(definition.to_owned()), ..good.clone() };
        let text = good.definition.clone().unwrap();
        for strange in [
            with(""),
            with("name = 5"),
            with(&text.replace("mail", "post")),
            with(&format!("secret-file = \"/etc/shadow\"\n{text}")),
            with(&format!("unknown = 1\n{text}")),
            with(&format!("{text}{}", "# more\n".repeat(1_000))),
            Offered { definition: None, ..good.clone() },
        ] {
            let adopted = adopt(&strange, &own());
            assert!(adopted.service.is_none() && adopted.problems.len() == 1, "{strange:?}");
        }
    }
}
