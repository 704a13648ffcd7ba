//! Reading and checking a configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sustain_proto::limits::HELD_MAX;
use sustain_store::Retention;
use sustain_vmdriver::limits::FORWARDS_MAX;

use super::{Config, DriverKind, NodeConfig, ServiceConfig, VmConfig};

/// Most bytes of a configuration file; a thousand nodes need a fifth of it.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Shortest interval between snapshots: below this the guest would hardly run in between.
const INTERVAL_MS_MIN: u64 = 100;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no configuration.
    #[error("{path} is no configuration of a sustain node")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It contradicts itself.
    #[error("{path}: {what}")]
    Check {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Reads a configuration file, makes its paths absolute and checks it.
///
/// # Errors
/// If it can't be read, has unknown keys or wrong types, or contradicts itself.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > CONFIG_BYTES_MAX {
        let what = format!("the file has {bytes} bytes, at most {CONFIG_BYTES_MAX} are read");
        return Err(ConfigError::Check { path: path.to_owned(), what });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let path = std::path::absolute(path).map_err(failed)?;
    parse(&text, &path)
}

/// Parses a configuration as if it had been read from `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let mut config: Config = toml::from_str(text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    check(&config).map_err(|what| ConfigError::Check { path: path.to_owned(), what })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let own = [&mut config.key_file, &mut config.store, &mut config.admin_socket, &mut config.run];
    for file in own.into_iter().chain(&mut config.secret_file) {
        *file = folder.join(&*file);
    }
    for service in &mut config.services {
        let files = service.vm.iter_mut().flat_map(|vm| [&mut vm.kernel, &mut vm.initramfs, &mut vm.disk]);
        let commands = service.command.iter_mut().map(|command| &mut command.folder);
        for file in files.flatten().chain(commands).chain(&mut service.secret_file) {
            *file = folder.join(&*file);
        }
    }
    Ok(config)
}

fn check(config: &Config) -> Result<(), String> {
    if config.own().is_none() {
        return Err(format!("`name` is `{}`, but no entry of `nodes` has that name", config.name));
    }
    for node in &config.nodes {
        node.details().check().map_err(|error| format!("node `{}`: {error}", node.name))?;
    }
    unique("name", config.nodes.iter().map(|node: &NodeConfig| node.name.as_str()))?;
    unique("id", config.nodes.iter().map(|node| node.id))?;
    unique("address", config.nodes.iter().map(|node| node.address))?;
    unique("service", config.services.iter().map(|service| service.name.as_str()))?;
    let forwards = config.services.iter().flat_map(|service| &service.forwards);
    unique("listen address", forwards.map(|forward| forward.listen))?;
    let timing = &config.timing;
    if timing.heartbeat_ms == 0 || timing.fresh_ms + timing.heartbeat_ms > timing.suspect_ms {
        return Err("`timing`: heartbeat-ms must not be 0, and fresh-ms must be less than suspect-ms by at \
                    least heartbeat-ms"
            .to_owned());
    }
    config.share.check()?;
    for service in &config.services {
        if !config.nodes.iter().any(|node| node.name == service.first_server) {
            let (name, first) = (&service.name, &service.first_server);
            return Err(format!("service `{name}`: first-server `{first}` is no node"));
        }
        check_service(service).map_err(|what| format!("service `{}`: {what}", service.name))?;
    }
    Ok(())
}

fn check_service(service: &ServiceConfig) -> Result<(), String> {
    if service.interval.as_millis() < INTERVAL_MS_MIN {
        return Err(format!("interval is under {INTERVAL_MS_MIN} ms"));
    }
    if service.rebase_after == 0 {
        return Err("rebase-after must not be 0".to_owned());
    }
    if service.rebase_delta_percent == 0 || service.rebase_dead_percent == 0 {
        return Err("rebase-delta-percent and rebase-dead-percent must not be 0".to_owned());
    }
    let Retention { keep_last, keep_hourly, keep_daily } = service.retention();
    let kept = [keep_last, keep_hourly, keep_daily].iter().fold(0_u32, |sum, keep| sum.saturating_add(*keep));
    if kept as usize > HELD_MAX {
        return Err(format!(
            "keep-last, keep-hourly and keep-daily are {kept} in all, at most {HELD_MAX} are allowed"
        ));
    }
    if service.forwards.len() > FORWARDS_MAX {
        return Err(format!("{} forwards, where at most {FORWARDS_MAX} are allowed", service.forwards.len()));
    }
    unique("guest-port", service.forwards.iter().map(|forward| forward.guest_port))?;
    match (service.driver, &service.vm, &service.command) {
        (DriverKind::Qemu, Some(vm), None) => check_vm(vm),
        (DriverKind::Command, None, Some(_)) => Ok(()),
        (DriverKind::Qemu, None, _) => Err("the driver `qemu` needs a table `vm`".to_owned()),
        (DriverKind::Qemu, ..) => Err("a table `command` is for `driver = \"command\"`".to_owned()),
        (DriverKind::Command, _, None) => Err("the driver `command` needs a table `command`".to_owned()),
        (DriverKind::Command, ..) => Err("a table `vm` is for `driver = \"qemu\"`".to_owned()),
    }
}

fn check_vm(vm: &VmConfig) -> Result<(), String> {
    if vm.cpus == 0 {
        return Err("cpus must not be 0".to_owned());
    }
    if vm.kernel.is_some() {
        return Ok(());
    }
    if vm.disk.is_none() {
        return Err("a VM boots from a `kernel` or from a `disk`, and has neither".to_owned());
    }
    if vm.initramfs.is_some() || vm.kernel_args.is_some() {
        return Err("initramfs and kernel-args are for a `kernel`, and there is none".to_owned());
    }
    Ok(())
}

fn unique<T: Ord>(what: &str, values: impl Iterator<Item = T>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (position, value) in values.enumerate() {
        if !seen.insert(value) {
            return Err(format!("two entries have the same {what} (the second is number {})", position + 1));
        }
    }
    Ok(())
}
