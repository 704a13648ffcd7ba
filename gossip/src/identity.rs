//! A node's identity: an Ed25519 key pair. Its public half is the [`NodeId`] that every peer has pinned.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sustain_proto::{CodecError, Format, NodeId};

use crate::error::{ErrorKind, StartError};
use crate::limits;

const FORMAT: Format =
    Format { name: "node key", magic: *b"SUSk", version: 1, bytes_max: limits::KEY_FILE_BYTES_MAX };

/// What a PKCS#8 document of an Ed25519 key has before the 32 secret bytes (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What a key file holds. The public half is there to notice a damaged file.
#[derive(Serialize, Deserialize)]
struct KeyBody {
    secret: [u8; 32],
    public: [u8; 32],
}

/// A node's key pair. It never appears in a log: its `Debug` shows the public half.
#[derive(Clone)]
pub struct NodeKey {
    secret: [u8; 32],
    public: [u8; 32],
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.node_id().short())
    }
}

/// Why a key can't be made, kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for a new key")]
    Random,
    /// There is a file already.
    #[error("{path} exists already; a key is never overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Someone but the owner may use the file.
    #[error("key file {path} has mode {mode:04o}, so others may read it; it must be 0600")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is no key.
    #[error("{path} is not a usable node key")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CodecError,
    },
    /// The two halves of the key don't belong together.
    #[error("key file {path} is damaged: its public half is not that of its secret half")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The disk fails.
    #[error("can't {action} key file {path}")]
    Disk {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl KeyError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Format { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Exists { .. } | Self::Mode { .. } => ErrorKind::Refused,
            Self::Random | Self::Disk { .. } => ErrorKind::Failed,
        }
    }
}

impl NodeKey {
    /// Makes a new key from the system's random bytes.
    ///
    /// # Errors
    /// If the system has none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = [0_u8; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| KeyError::Random)?;
        let public = public_half(&secret).ok_or(KeyError::Random)?;
        Ok(Self { secret, public })
    }

    /// The node that this key makes.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.public)
    }

    /// Writes the key to a new file that only its owner may use. What is there is never overwritten, and
    /// after a crash there is either the whole file or none.
    ///
    /// # Errors
    /// The file exists, or the disk fails.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let disk = |action| move |source| KeyError::Disk { action, path: path.to_owned(), source };
        let body = KeyBody { secret: self.secret, public: self.public };
        let bytes = sustain_proto::encode(FORMAT, &body)
            .map_err(|source| KeyError::Format { path: path.to_owned(), source })?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            // A link, unlike a rename, fails where there is a file already.
            .and_then(|()| fs::hard_link(&temporary, path));
        let removed = fs::remove_file(&temporary);
        match written {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists { path: path.to_owned() });
            }
            written => written.map_err(disk("write"))?,
        }
        removed.map_err(disk("write"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("sync the folder of"))
    }

    /// Reads a key file, which nobody but its owner may be able to use.
    ///
    /// # Errors
    /// No such file, wrong mode, not a key, damaged.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let disk = |source| KeyError::Disk { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(disk)?;
        // The open file is asked, not the path, which may name another file by now.
        let mode = file.metadata().map_err(disk)?.mode() & 0o7777;
        if mode & 0o177 != 0 {
            return Err(KeyError::Mode { path: path.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        file.take(limits::KEY_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(disk)?;
        let body: KeyBody = sustain_proto::decode(FORMAT, &bytes)
            .map_err(|source| KeyError::Format { path: path.to_owned(), source })?;
        if public_half(&body.secret) != Some(body.public) {
            return Err(KeyError::Damaged { path: path.to_owned() });
        }
        Ok(Self { secret: body.secret, public: body.public })
    }

    /// The key in the form that TLS takes.
    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        let mut document = PKCS8_PREFIX.to_vec();
        document.extend_from_slice(&self.secret);
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document))
    }

    /// A certificate signed by the key itself. Peers look at nothing in it but the public key.
    pub(crate) fn certificate(&self) -> Result<CertificateDer<'static>, rcgen::Error> {
        let PrivateKeyDer::Pkcs8(document) = self.private_der() else {
            return Err(rcgen::Error::CouldNotParseKeyPair);
        };
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&document, &rcgen::PKCS_ED25519)?;
        let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "sustain node");
        Ok(parameters.self_signed(&pair)?.der().clone())
    }

    /// The secret half, to sign with.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// A secret for one purpose, the same at each start.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.secret)
    }
}

/// A random number from the system.
pub(crate) fn random() -> Result<u64, StartError> {
    let mut bytes = [0_u8; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StartError::Random)?;
    Ok(u64::from_le_bytes(bytes))
}

fn public_half(secret: &[u8; 32]) -> Option<[u8; 32]> {
    let pair = Ed25519KeyPair::from_seed_unchecked(secret).ok()?;
    pair.public_key().as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_saved_key_loads_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let key = NodeKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(NodeKey::load(&path).unwrap().node_id(), key.node_id());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        assert!(!format!("{key:?}").contains(&format!("{:02x}{:02x}", key.secret[0], key.secret[1])));
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        fs::write(&path, "precious").unwrap();
        let error = NodeKey::generate().unwrap().save(&path).unwrap_err();
        assert!(matches!(error, KeyError::Exists { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        NodeKey::generate().unwrap().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o700, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = NodeKey::load(&path).unwrap_err();
            assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
            assert_eq!(error.kind(), ErrorKind::Refused);
        }
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        NodeKey::generate().unwrap().save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(NodeKey::load(&path).unwrap_err().kind(), ErrorKind::Corrupt, "byte {position}");
            fs::write(&path, &whole[..position]).unwrap();
            assert_eq!(NodeKey::load(&path).unwrap_err().kind(), ErrorKind::Corrupt, "cut at {position}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(NodeKey::load(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_certificate_carries_the_node_id() {
        let key = NodeKey::generate().unwrap();
        let certificate = key.certificate().unwrap();
        assert_eq!(crate::tls::node_of(&certificate), Some(key.node_id()));
    }
}
