//! Reading and checking a configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{Config, NodeConfig};

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
    for file in [
        &mut config.key_file,
        &mut config.secret_file,
        &mut config.store,
        &mut config.admin_socket,
        &mut config.run,
    ] {
        *file = folder.join(&*file);
    }
    for service in &mut config.services {
        service.vm.kernel = folder.join(&service.vm.kernel);
        service.vm.initramfs = service.vm.initramfs.take().map(|file| folder.join(file));
    }
    Ok(config)
}

fn check(config: &Config) -> Result<(), String> {
    if config.own().is_none() {
        return Err(format!("`name` is `{}`, but no entry of `nodes` has that name", config.name));
    }
    unique("name", config.nodes.iter().map(|node: &NodeConfig| node.name.as_str()))?;
    unique("id", config.nodes.iter().map(|node| node.id))?;
    unique("address", config.nodes.iter().map(|node| node.address))?;
    unique("service", config.services.iter().map(|service| service.name.as_str()))?;
    unique("listen address", config.services.iter().map(|service| service.listen))?;
    let timing = &config.timing;
    if timing.heartbeat_ms == 0 || timing.fresh_ms + timing.heartbeat_ms > timing.suspect_ms {
        return Err("`timing`: heartbeat-ms must not be 0, and fresh-ms must be less than suspect-ms by at \
                    least heartbeat-ms"
            .to_owned());
    }
    for service in &config.services {
        let name = &service.name;
        if !config.nodes.iter().any(|node| node.name == service.first_server) {
            return Err(format!("service `{name}`: first-server `{}` is no node", service.first_server));
        }
        if service.interval.as_millis() < INTERVAL_MS_MIN {
            return Err(format!("service `{name}`: interval is under {INTERVAL_MS_MIN} ms"));
        }
        if service.rebase_after == 0 || service.vm.cpus == 0 || service.vm.guest_port == 0 {
            return Err(format!("service `{name}`: rebase-after, cpus and guest-port must not be 0"));
        }
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
