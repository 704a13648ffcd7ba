//! Files with secrets: the one that a cluster's nodes share, and those of services that have their own.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sustain_proto::ServiceName;
use sustain_store::{ClusterKeys, Secrets, TooManySecrets};

use super::{Config, ServiceConfig};

/// Why secrets can't be made, saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The system's random source failed.
    #[error("can't make a secret")]
    Random(#[from] sustain_store::Fault),
    /// There would be more than a file may have.
    #[error(transparent)]
    TooMany(#[from] TooManySecrets),
    /// The file can't be read or written.
    #[error("can't use the secret file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read the file.
    #[error("the secret file {path} has mode {mode:03o}: others may read it (mend it with `chmod 600`)")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds no secrets.
    #[error("{path} is no file of secrets: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
}

/// Most bytes of a file that is read; one with as many secrets as it may have has a third of it.
const FILE_BYTES_MAX: u64 = 4_096;

/// Writes a new file with mode 0600; an existing one is never overwritten.
///
/// # Errors
/// If the file exists or can't be written.
pub fn save_secrets(path: &Path, secrets: &Secrets) -> Result<(), SecretError> {
    let failed = |source| SecretError::File { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(secrets.format().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    sync_folder_of(path).map_err(failed)
}

/// Replaces a file, all or nothing, with the owner that it had. Mode 0600.
///
/// # Errors
/// If it can't be written; then it is as it was.
pub fn replace_secrets(path: &Path, secrets: &Secrets) -> Result<(), SecretError> {
    let failed = |source| SecretError::File { path: path.to_owned(), source };
    let path = &fs::canonicalize(path).map_err(failed)?;
    let like = fs::metadata(path).map_err(failed)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    save_secrets(&temporary, secrets)?;
    let made = || {
        // The node's user can go on reading it when root has changed it.
        let made = fs::metadata(&temporary)?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            std::os::unix::fs::chown(&temporary, Some(like.uid()), Some(like.gid()))?;
        }
        fs::rename(&temporary, path)?;
        sync_folder_of(path)
    };
    made().map_err(|error| {
        // Nothing better can be done about a file that can't be removed.
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// Reads a file that [`save_secrets`] wrote.
///
/// # Errors
/// If it can't be read, is readable for others, or holds no secrets.
pub fn load_secrets(path: &Path) -> Result<Secrets, SecretError> {
    let failed = |source| SecretError::File { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Mode { path: path.to_owned(), mode });
    }
    let format = |reason| SecretError::Format { path: path.to_owned(), reason };
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format("it is too large"));
    }
    Secrets::parse(&fs::read_to_string(path).map_err(failed)?).map_err(format)
}

/// The same; none if there is no such file.
fn load_if_there(path: &Path) -> Result<Option<Secrets>, SecretError> {
    match load_secrets(path) {
        Err(SecretError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        loaded => loaded.map(Some),
    }
}

impl Config {
    /// All secrets that this node has. Of a service with a file of its own that is not there, it has none.
    ///
    /// # Errors
    /// If a file can't be read, or is readable for others.
    pub fn cluster_keys(&self) -> Result<ClusterKeys, SecretError> {
        let secrets = self.secret_file.as_deref().map(load_secrets).transpose()?;
        let mut services = BTreeMap::new();
        for service in &self.services {
            if let Some(path) = &service.secret_file {
                services.insert(service.name.clone(), load_if_there(path)?);
            }
        }
        Ok(ClusterKeys { secrets, services })
    }

    /// The secrets that open what is sealed of a service, oldest first, and seal what comes next; none if they are not
    /// here. They say nothing of other services.
    ///
    /// # Errors
    /// As [`Config::cluster_keys`], or if there are more than a file may have.
    pub fn secrets_of(&self, service: &ServiceName) -> Result<Option<Secrets>, SecretError> {
        let keys = self.cluster_keys()?;
        let derived = keys.secrets.map(|secrets| secrets.of_service(service));
        let own = keys.services.get(service).cloned();
        let (mut all, own) = match (derived, own) {
            (derived, None) => return Ok(derived),
            (None, Some(own)) => return Ok(own),
            (Some(_), Some(None)) => return Ok(None),
            (Some(derived), Some(Some(own))) => (derived, own),
        };
        own.iter().try_for_each(|secret| all.add(secret.clone()))?;
        Ok(Some(all))
    }
}

/// Why nothing of a service can be sealed or opened on this node, if so.
#[must_use]
pub fn lacks_secret(config: &Config, service: &ServiceConfig) -> Option<String> {
    let keeps = "this node keeps and serves what others seal, and can't run the service";
    match (&service.secret_file, &config.secret_file) {
        (Some(path), _) if !path.exists() => {
            let copy = "copy it from a node that has it, mode 0600, and restart this one";
            Some(format!("the service's secret file {} is not here: {keeps}; {copy}", path.display()))
        }
        (None, None) => Some(format!("neither the node nor the service has a `secret-file`: {keeps}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sustain_store::Secret;

    use super::*;

    #[test]
    fn secrets_read_back_and_are_never_overwritten_or_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let mut secrets = Secrets::one(Secret::generate().unwrap());
        save_secrets(&path, &secrets).unwrap();
        assert_eq!(load_secrets(&path).unwrap(), secrets);
        assert!(matches!(save_secrets(&path, &secrets), Err(SecretError::File { .. })));
        secrets.add(Secret::generate().unwrap()).unwrap();
        replace_secrets(&path, &secrets).unwrap();
        assert_eq!(load_secrets(&path).unwrap(), secrets);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace_secrets(&dir.path().join("other"), &secrets).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_secrets(&path), Err(SecretError::Mode { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "sustain-secret 1 00").unwrap();
        assert!(matches!(load_secrets(&path), Err(SecretError::Format { .. })));
    }
}
