//! TLS: both sides show a key, and nothing counts but whether that key is pinned.
//!
//! Who is pinned changes while the node runs. The keys of removed nodes stay pinned, too, so that these can be told
//! that they were removed; whoever is let in by TLS is looked up in the list of peers before it may say anything.
//! While an invitation is open any key passes, for the joining protocol alone.
//!
//! Names, dates and issuers in certificates are ignored: a certificate is only the envelope in which TLS
//! carries the node's public key. TLS 1.3 only; no session is ever resumed and nothing is sent before
//! the handshake ends, so there is no way in that skips the check of the key.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use sustain_proto::NodeId;
use sustain_proto::join::JOIN_ALPN;
use sustain_proto::wire::{Lane, VERSIONS_ALPN, Versions};

use crate::identity::NodeKey;
use crate::transport::links::lock;

/// The name that TLS wants for the other side. It is not sent and not checked.
pub(crate) const SERVER_NAME: &str = "sustain";

/// What a SubjectPublicKeyInfo of an Ed25519 key has before the 32 bytes of the key (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Why TLS can't be set up from a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No certificate could be made.
    #[error("can't make a certificate from the node key")]
    Certificate(#[from] rcgen::Error),
    /// TLS refuses the key or the settings.
    #[error("can't set up TLS with the node key")]
    Setup(#[from] Error),
    /// The crypto provider lacks what QUIC begins with.
    #[error("the TLS library lacks the cipher that QUIC begins with")]
    Cipher(#[from] NoInitialCipherSuite),
}

/// The node that a certificate names: its key, if it is an Ed25519 key.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let info = parsed.subject_public_key_info();
    let key = info.as_ref().strip_prefix(&SPKI_PREFIX[..])?;
    Some(NodeId::from_bytes(key.try_into().ok()?))
}

/// Whose keys pass.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    nodes: Mutex<BTreeSet<NodeId>>,
    strangers: AtomicBool,
}

impl Pinned {
    /// These, from now on.
    pub(crate) fn set(&self, nodes: BTreeSet<NodeId>) {
        *lock(&self.nodes) = nodes;
    }

    /// Whether any other key passes, too.
    pub(crate) fn let_strangers(&self, pass: bool) {
        self.strangers.store(pass, Ordering::Release);
    }

    fn passes(&self, node: &NodeId) -> bool {
        lock(&self.nodes).contains(node) || self.strangers.load(Ordering::Acquire)
    }
}

/// Checks that the other side has one of the pinned keys.
#[derive(Debug)]
struct Pins {
    pinned: Arc<Pinned>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pins {
    fn check(&self, certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let known = node_of(certificate).is_some_and(|node| self.pinned.passes(&node));
        if known && others.is_empty() {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

fn old_version() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}

impl ServerCertVerifier for Pins {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, others)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old_version())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Pins {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate, others)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old_version())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn pins(provider: &CryptoProvider, pinned: Arc<Pinned>) -> Arc<Pins> {
    Arc::new(Pins { pinned, algorithms: provider.signature_verification_algorithms })
}

/// The settings with which calls are answered, on every lane and by the joining protocol. What comes first here is
/// taken if the caller speaks it, too.
pub(crate) fn server(
    key: &NodeKey,
    pinned: Arc<Pinned>,
    versions: Versions,
) -> Result<QuicServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(pins(&provider, pinned))
        .with_single_cert(vec![key.certificate()?], key.private_der())?;
    let lanes = Lane::ALL.into_iter().flat_map(|lane| versions.alpns(lane));
    config.alpn_protocols = lanes.chain([JOIN_ALPN.to_vec(), VERSIONS_ALPN.to_vec()]).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(QuicServerConfig::try_from(config)?)
}

/// The settings with which exactly this node is called, on one lane.
pub(crate) fn client(
    key: &NodeKey,
    node: NodeId,
    lane: Lane,
    versions: Versions,
) -> Result<QuicClientConfig, TlsError> {
    client_speaking(key, node, versions.alpns(lane).chain([VERSIONS_ALPN.to_vec()]).collect())
}

fn only(node: NodeId) -> Arc<Pinned> {
    let pinned = Pinned::default();
    pinned.set(BTreeSet::from([node]));
    Arc::new(pinned)
}

/// As [`client`], with any protocol names; tests call with wrong ones.
pub(crate) fn client_speaking(
    key: &NodeKey,
    node: NodeId,
    protocols: Vec<Vec<u8>>,
) -> Result<QuicClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pins(&provider, only(node)))
        .with_client_auth_cert(vec![key.certificate()?], key.private_der())?;
    config.alpn_protocols = protocols;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(QuicClientConfig::try_from(config)?)
}
