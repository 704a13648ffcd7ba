//! Connections that this node has dialled: at most one for each peer and lane.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, VarInt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use sustain_proto::NodeId;
use sustain_proto::wire::{Lane, Versions};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::config::ClusterConfig;
use crate::error::{RequestError, StartError};
use crate::identity::NodeKey;
use crate::tls;
use crate::transport::quic;
use crate::transport::spoken::{Spoken, spoken};
use crate::tuning::Tuning;

/// Locks a mutex whose holder can't leave it half changed, even by a panic.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Link {
    address: SocketAddr,
    config: ClientConfig,
    /// Held while dialling, so that many who want the connection dial once.
    dialling: tokio::sync::Mutex<()>,
    state: Mutex<LinkState>,
}

impl Link {
    fn close(&self, code: VarInt, reason: &[u8]) {
        if let Some((connection, _)) = lock(&self.state).current.take() {
            connection.close(code, reason);
        }
    }
}

struct LinkState {
    current: Option<(Connection, Instant)>,
    backoff: Backoff,
    /// No attempt before this time, and why the last one failed.
    pause: Option<(Instant, String)>,
}

/// All dialled connections.
pub(crate) struct Links {
    endpoint: Mutex<Option<Endpoint>>,
    links: Mutex<BTreeMap<(NodeId, Lane), Arc<Link>>>,
    key: NodeKey,
    tuning: Tuning,
    random: Mutex<StdRng>,
    /// Peers that are not called until then, and why.
    barred: Mutex<BTreeMap<NodeId, (Instant, String)>>,
}

impl Links {
    pub(crate) fn new(endpoint: Endpoint, config: &ClusterConfig, seed: u64) -> Self {
        Self {
            endpoint: Mutex::new(Some(endpoint)),
            links: Mutex::default(),
            key: config.key.clone(),
            tuning: config.tuning.clone(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            barred: Mutex::default(),
        }
    }

    /// Where a peer is, from now on. Connections to where it was before are closed.
    ///
    /// # Errors
    /// If TLS can't be set up.
    pub(crate) fn set(&self, peer: NodeId, address: SocketAddr) -> Result<(), StartError> {
        for lane in Lane::ALL {
            let state = LinkState {
                current: None,
                backoff: Backoff::new(self.tuning.retry_ms_min, self.tuning.retry_ms_max),
                pause: None,
            };
            let link = Link {
                address,
                config: quic::client_config(&self.key, peer, lane, &self.tuning)?,
                dialling: tokio::sync::Mutex::new(()),
                state: Mutex::new(state),
            };
            let old = lock(&self.links).insert((peer, lane), Arc::new(link));
            if let Some(old) = old {
                old.close(quic::CLOSE_REPLACED, b"it has another address");
            }
        }
        Ok(())
    }

    /// Closes the connections to a peer, and calls it for so long no more.
    pub(crate) fn bar(&self, peer: NodeId, time: Duration, code: VarInt, reason: &str) {
        lock(&self.barred).insert(peer, (Instant::now() + time, reason.to_owned()));
        for lane in Lane::ALL {
            if let Some(link) = self.link(peer, lane) {
                link.close(code, reason.as_bytes());
            }
        }
    }

    /// Until when a peer is not called, and why.
    fn barred(&self, peer: NodeId) -> Option<(Instant, String)> {
        let mut barred = lock(&self.barred);
        let found = barred.get(&peer).filter(|(until, _)| *until > Instant::now()).cloned();
        if found.is_none() {
            barred.remove(&peer);
        }
        found
    }

    /// Forgets a peer, and closes what connections there are.
    pub(crate) fn remove(&self, peer: NodeId, code: VarInt, reason: &[u8]) {
        lock(&self.barred).remove(&peer);
        for lane in Lane::ALL {
            let old = lock(&self.links).remove(&(peer, lane));
            if let Some(old) = old {
                old.close(code, reason);
            }
        }
    }

    fn link(&self, peer: NodeId, lane: Lane) -> Option<Arc<Link>> {
        lock(&self.links).get(&(peer, lane)).cloned()
    }

    /// The connection if there is one, without dialling.
    pub(crate) fn live(&self, peer: NodeId, lane: Lane) -> Option<Connection> {
        let link = self.link(peer, lane)?;
        let state = lock(&link.state);
        state.current.as_ref().map(|(connection, _)| connection).filter(|it| alive(it)).cloned()
    }

    /// The connection, dialled if there is none. After failures this fails at once until a pause is over.
    pub(crate) async fn get(&self, peer: NodeId, lane: Lane) -> Result<Connection, RequestError> {
        let link = &self.link(peer, lane).ok_or(RequestError::UnknownNode { node: peer })?;
        if let Some(connection) = self.ready(peer, link)? {
            return Ok(connection);
        }
        let _dialling = link.dialling.lock().await;
        // Another one may have dialled meanwhile.
        if let Some(connection) = self.ready(peer, link)? {
            return Ok(connection);
        }
        let endpoint = lock(&self.endpoint).clone().ok_or(RequestError::Stopped)?;
        match self.dial(&endpoint, link).await {
            Ok(connection) => {
                lock(&link.state).current = Some((connection.clone(), Instant::now()));
                if self.link(peer, lane).is_none_or(|now| !Arc::ptr_eq(&now, link)) {
                    // It was removed, or has moved, while it was dialled.
                    link.close(quic::CLOSE_REPLACED, b"not where it was");
                } else if let Some((_, reason)) = self.barred(peer) {
                    link.close(quic::CLOSE_SHUT_OUT, reason.as_bytes());
                }
                Ok(connection)
            }
            Err(DialError::Unreachable(reason)) => Err(self.failed(peer, &mut lock(&link.state), reason)),
            Err(DialError::Versions(theirs)) => {
                let mismatch = self.tuning.versions.mismatch(theirs);
                drop(self.failed(peer, &mut lock(&link.state), mismatch.clone()));
                Err(RequestError::Version { node: peer, mismatch })
            }
        }
    }

    /// How long the next attempt has to wait.
    pub(crate) fn pause(&self, peer: NodeId, lane: Lane) -> Duration {
        let pause = self.link(peer, lane).and_then(|link| lock(&link.state).pause.clone());
        let pause = self.barred(peer).max(pause);
        pause.map_or(Duration::ZERO, |(until, _)| until.saturating_duration_since(Instant::now()))
    }

    /// The peer has answered: attempts on all its lanes begin anew.
    pub(crate) fn answered(&self, peer: NodeId) {
        for lane in Lane::ALL {
            if let Some(link) = self.link(peer, lane) {
                let mut state = lock(&link.state);
                state.backoff.succeeded();
                state.pause = None;
            }
        }
    }

    /// Takes the endpoint away, so that nobody dials any more, says on all connections that the node leaves, and
    /// forgets them.
    pub(crate) fn leave(&self) -> Option<Endpoint> {
        let endpoint = lock(&self.endpoint).take();
        for link in lock(&self.links).values() {
            link.close(quic::CLOSE_LEAVING, b"leaving");
        }
        endpoint
    }

    fn ready(&self, peer: NodeId, link: &Link) -> Result<Option<Connection>, RequestError> {
        if let Some((_, reason)) = self.barred(peer) {
            return Err(RequestError::Unreachable { node: peer, reason });
        }
        let mut state = lock(&link.state);
        if let Some((connection, since)) = state.current.take() {
            let Some(reason) = connection.close_reason() else {
                state.current = Some((connection.clone(), since));
                return Ok(Some(connection));
            };
            // A peer that refuses this node does so after the connection seems to stand: without a pause
            // here it would be dialled again at once, for ever.
            if since.elapsed() < Duration::from_millis(self.tuning.retry_ms_max) {
                return Err(self.failed(peer, &mut state, reason.to_string()));
            }
            state.backoff.succeeded();
        }
        match &state.pause {
            Some((until, reason)) if *until > Instant::now() => {
                Err(RequestError::Unreachable { node: peer, reason: reason.clone() })
            }
            _ => Ok(None),
        }
    }

    fn failed(&self, peer: NodeId, state: &mut LinkState, reason: String) -> RequestError {
        let pause_ms = state.backoff.failed(&mut *lock(&self.random));
        state.pause = Some((Instant::now() + Duration::from_millis(pause_ms), reason.clone()));
        RequestError::Unreachable { node: peer, reason }
    }

    async fn dial(&self, endpoint: &Endpoint, link: &Link) -> Result<Connection, DialError> {
        let failed = |error: String| DialError::Unreachable(error);
        let connecting = endpoint
            .connect_with(link.config.clone(), link.address, tls::SERVER_NAME)
            .map_err(|error| failed(error.to_string()))?;
        let work = async {
            let connection = connecting.await.map_err(|error| failed(error.to_string()))?;
            match spoken(&connection) {
                Some(Spoken::Nothing) => Err(no_common_version(&connection.closed().await)),
                _ => Ok(connection),
            }
        };
        match tokio::time::timeout(Duration::from_millis(self.tuning.dial_timeout_ms), work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed(format!("no answer from {}", link.address))),
        }
    }
}

/// Why a peer can't be called.
enum DialError {
    Unreachable(String),
    /// It speaks these versions of the wire, and none of this node's.
    Versions(Versions),
}

/// What a peer has told with which there is no common version. One that refuses this node tells something else.
fn no_common_version(end: &ConnectionError) -> DialError {
    match end {
        ConnectionError::ApplicationClosed(close) if close.error_code == quic::CLOSE_VERSION => {
            let theirs = Versions::from_text(&close.reason);
            theirs.map_or_else(|| DialError::Unreachable(end.to_string()), DialError::Versions)
        }
        end => DialError::Unreachable(end.to_string()),
    }
}

fn alive(connection: &Connection) -> bool {
    connection.close_reason().is_none()
}
