//! The secret that a cluster's nodes share: chunk ids are keyed with it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRngCore;

const HEADER: &str = "sustain-secret 1 ";

/// 32 secret bytes. They never appear in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret([u8; 32]);

/// Why a secret can't be made, saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The system's random source failed.
    #[error("can't get random bytes from the system")]
    Random,
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
    /// The file holds no secret.
    #[error("{path} is no sustain secret of version 1")]
    Format {
        /// The file.
        path: PathBuf,
    },
}

impl ClusterSecret {
    /// A new secret from the system's random source.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|_| SecretError::Random)?;
        Ok(Self(bytes))
    }

    /// The bytes, for the store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Writes a new file with mode 0600; an existing one is never overwritten.
    ///
    /// # Errors
    /// If the file exists or can't be written.
    pub fn save(&self, path: &Path) -> Result<(), SecretError> {
        use std::fmt::Write as _;
        let failed = |source| SecretError::File { path: path.to_owned(), source };
        let mut text = HEADER.to_owned();
        for byte in self.0 {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Reads a file that [`ClusterSecret::save`] wrote.
    ///
    /// # Errors
    /// If it can't be read, is readable for others, or is no secret.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::File { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Mode { path: path.to_owned(), mode });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let format = || SecretError::Format { path: path.to_owned() };
        let digits = text.trim_end().strip_prefix(HEADER).ok_or_else(format)?;
        let id: sustain_proto::ContentHash = digits.parse().map_err(|_| format())?;
        Ok(Self(*id.as_bytes()))
    }
}

impl std::fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_is_never_overwritten_or_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secret = ClusterSecret::generate().unwrap();
        secret.save(&path).unwrap();
        assert_eq!(ClusterSecret::load(&path).unwrap(), secret);
        assert!(matches!(secret.save(&path), Err(SecretError::File { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(ClusterSecret::load(&path), Err(SecretError::Mode { mode: 0o640, .. })));
        assert_eq!(format!("{secret:?}"), "ClusterSecret(..)");
    }
}
