//! Which store a command works on: a folder of its own, or that of a daemon.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sustain_node::config::{self, Config};
use sustain_node::operations::Failure;
use sustain_store::{KeySource, Store, StoreOptions};

use crate::client::Client;

/// What the user said: `--store`, `--config`, or neither.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// `--store DIR`.
    pub(crate) store: Option<PathBuf>,
    /// `--config FILE`, as often as it was given.
    pub(crate) config: Vec<PathBuf>,
}

/// Where the command works.
pub(crate) enum Place {
    /// In a folder.
    Folder(Store),
    /// At a daemon.
    Daemon(Client),
}

impl Choice {
    /// Opens the store, or finds the daemon. A missing store is made only where `create` says so.
    pub(crate) fn place(&self, create: bool) -> Result<Place, Failure> {
        match &self.store {
            Some(folder) => open_store(folder, create).map(Place::Folder),
            None if self.config.is_empty() && find_config().is_none() => {
                Err(Failure::new(2, "no store and no configuration given")
                    .with_hint("name a store with --store DIR, or a node's configuration with --config FILE"))
            }
            None => self.client().map(Place::Daemon),
        }
    }

    /// Opens the store for commands that read it themselves, also that of a daemon.
    pub(crate) fn readable_store(&self) -> Result<Store, Failure> {
        if self.store.is_some() || (self.config.is_empty() && find_config().is_none()) {
            return match self.place(false)? {
                Place::Folder(store) => Ok(store),
                Place::Daemon(_) => {
                    Err(Failure::new(2, "no store given").with_hint("name it with --store DIR"))
                }
            };
        }
        let (_, config) = self.load_config()?;
        let keys = config.cluster_keys();
        let keys = keys.map_err(|error| Failure::new(1, sustain_store::error_chain(&error)))?;
        let key = KeySource::Cluster(keys);
        Store::open(&config.store, StoreOptions { key, ..StoreOptions::default() }).map_err(|error| {
            let failure = Failure::of(&error, error.kind());
            match error {
                sustain_store::OpenError::NotFound { .. } => {
                    failure.with_hint("the node's first start makes it: `snapctl node --config FILE`")
                }
                _ => failure,
            }
        })
    }

    /// For commands that work on neither.
    pub(crate) fn refuse(&self, command: &str) -> Result<(), Failure> {
        let given = if self.store.is_some() { "--store" } else { "--config" };
        if self.store.is_none() && self.config.is_empty() {
            return Ok(());
        }
        Err(Failure::new(2, format!("`{command}` has no use for {given}"))
            .with_hint(format!("leave it out; `snapctl {command} --help` lists what there is")))
    }

    /// For commands that work with a configuration only.
    fn refuse_store(&self) -> Result<(), Failure> {
        match &self.store {
            None => Ok(()),
            Some(_) => Err(Failure::new(2, "this command has no use for --store: it concerns a node")
                .with_hint("name the node's configuration with --config FILE instead")),
        }
    }

    /// The daemon's client.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let (_, config) = self.load_config()?;
        Ok(Client::new(config.admin_socket))
    }

    /// The configuration, and where it was found.
    pub(crate) fn load_config(&self) -> Result<(PathBuf, Config), Failure> {
        self.refuse_store()?;
        match self.config.as_slice() {
            [] => load(find_config().ok_or_else(|| {
                Failure::new(2, "no configuration given")
                    .with_hint("name a node's configuration with --config FILE, or in SUSTAIN_CONFIG")
            })?),
            [path] => load(path.clone()),
            _ => Err(Failure::new(2, "several configurations given").with_hint(
                "only `service add`, `rm` and `check` and `key change` take several nodes at once",
            )),
        }
    }

    /// All configurations that were named, each once, or the usual one.
    pub(crate) fn load_configs(&self) -> Result<Vec<(PathBuf, Config)>, Failure> {
        if self.config.len() < 2 {
            return Ok(vec![self.load_config()?]);
        }
        let mut seen = BTreeSet::new();
        for path in &self.config {
            // What can't be found is told by reading it.
            if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                return Err(Failure::new(2, format!("the configuration {} is given twice", path.display()))
                    .with_hint("name each node's configuration once"));
            }
        }
        self.config.iter().map(|path| load(path.clone())).collect()
    }
}

/// Reads a configuration.
fn load(path: PathBuf) -> Result<(PathBuf, Config), Failure> {
    let config = config::load(&path).map_err(|error| {
        Failure::new(1, sustain_store::error_chain(&error))
            .with_hint("`snapctl init` writes configurations; docs/config.toml explains every key")
    })?;
    Ok((path, config))
}

fn find_config() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/sustain/config.toml"));
    let usual = home.into_iter().chain([PathBuf::from("/etc/sustain/config.toml")]);
    if let Some(path) = std::env::var_os("SUSTAIN_CONFIG") {
        return Some(path.into());
    }
    usual.into_iter().find(|path| path.exists())
}

fn open_store(folder: &Path, create: bool) -> Result<Store, Failure> {
    let options = StoreOptions { create, ..StoreOptions::default() };
    if folder.metadata().is_ok_and(|found| !found.is_dir()) {
        return Err(Failure::new(2, format!("{} is no store: it is no folder", folder.display()))
            .with_hint("name the folder that a store is in, or is to be in, such as --store ./states"));
    }
    Store::open(folder, options).map_err(|error| {
        let failure = Failure::of(&error, error.kind());
        match &error {
            sustain_store::OpenError::NotFound { .. } => {
                failure.with_hint("the first `snapctl push` makes the store")
            }
            sustain_store::OpenError::ClusterKey { .. } => {
                failure.with_hint("name the node's configuration with --config instead of --store")
            }
            sustain_store::OpenError::Fault(sustain_store::Fault::Damaged { path, .. }) => {
                failure.with_hint(hint_for_damaged(path))
            }
            sustain_store::OpenError::Fault(sustain_store::Fault::Busy {
                process: Some(process), ..
            }) => failure.with_hint(format!("if it was stopped, `kill -CONT {process}` lets it go on")),
            sustain_store::OpenError::Fault(sustain_store::Fault::Disk { path, source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                failure.with_hint(format!(
                    "the store is its owner's: run the command as the user who owns {}",
                    path.display()
                ))
            }
            sustain_store::OpenError::Foreign { .. } => failure.with_hint(
                "name the folder of a store, or an empty or missing one in which `snapctl push` is to make it",
            ),
            _ => failure,
        }
    })
}

/// What to do about a file without which the store does not open, so that `verify` does not help.
fn hint_for_damaged(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name);
    if folder.is_some_and(|name| name == "keys") {
        return "put the key back from a copy: without it nothing of the service can be read".to_owned();
    }
    format!("move {} away and run the command again: it is made anew from the other files", path.display())
}
