//! Clients (P23): every node accepts the service's port and forwards to the current server.
//!
//! ```text
//! accepted ─▶ held until there is a server ─▶ reached ─▶ bytes both ways ─▶ ended
//!                 ▲          ▲                  │            │ the server is lost, and had not answered
//!                 │          └── not reached ───┘            │
//!                 └──────────────────────────────────────────┘ what was said is said again
//! ```
//! Nothing of what a client says is sent before the server has taken the connection, so one that is not reached
//! can be tried again. When it may be said again to a successor is in `client.rs`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use sustain_gossip::{Cluster, IncomingForward};
use sustain_proto::ServiceName;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{Client, Newest};
use super::handle::Target;
use crate::limits;

/// A port of a service, as its clients know it.
#[derive(Clone)]
pub(crate) struct ClientPort {
    pub(crate) service: ServiceName,
    /// Its number inside the guest.
    pub(crate) guest_port: NonZeroU16,
    pub(crate) cluster: Cluster,
    pub(crate) target: watch::Receiver<Target>,
    pub(crate) newest: watch::Receiver<Option<Newest>>,
    /// Room for the clients of all ports of the service.
    pub(crate) places: Arc<Semaphore>,
}

/// Accepts clients until cancelled.
pub(crate) async fn serve_clients(
    listener: TcpListener,
    port: ClientPort,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let service = &port.service;
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = accept(&listener, &port.places) => accepted,
        };
        let (client, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: others' connections must end first.
                tracing::warn!(%service, %error, "can't accept a client");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (port, cancel) = (port.clone(), cancel.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                result = serve_client(client, port.target.clone(), port.newest.clone(), &port) => {
                    if let Err(error) = result {
                        tracing::debug!(service = %port.service, %error, "a client's connection ended");
                    }
                }
            }
            drop(place);
        });
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (client, _) = listener.accept().await?;
    client.set_nodelay(true)?;
    Ok((client, place))
}

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// How a server is reached.
pub(super) trait Way: Sync {
    /// A connection that the server has taken.
    fn reach(&self, server: &Target) -> impl Future<Output = io::Result<Box<dyn Stream>>> + Send;
}

impl Way for ClientPort {
    async fn reach(&self, server: &Target) -> io::Result<Box<dyn Stream>> {
        match server {
            Target::Nowhere => Err(io::Error::new(io::ErrorKind::NotFound, "there is no server")),
            Target::Here(_, ports) => {
                let missing = || io::Error::new(io::ErrorKind::NotFound, "the VM has no such port");
                let address = ports.address(self.guest_port).ok_or_else(missing)?;
                Ok(Box::new(connect(address).await?))
            }
            Target::Node(followed) => {
                let service = self.service.clone();
                let stream = self.cluster.forward(followed.term.node, service, self.guest_port).await;
                Ok(Box::new(stream.map_err(io::Error::other)?))
            }
        }
    }
}

/// Waits until there is a server.
async fn some_server(target: &mut watch::Receiver<Target>, deadline: Instant) -> io::Result<Target> {
    match timeout_at(deadline, target.wait_for(|target| *target != Target::Nowhere)).await {
        Ok(Ok(chosen)) => Ok(chosen.clone()),
        // The service's task has ended.
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "there is no server")),
    }
}

/// Waits until clients are sent elsewhere.
async fn changed(target: &mut watch::Receiver<Target>, chosen: &Target) -> io::Result<()> {
    target.wait_for(|target| target != chosen).await.map(drop).map_err(io::Error::other)
}

/// Connects a client to one server after the other until one answers it, or it has been held too long. What a
/// server that is lost had begun to say can't be continued by another: the connection ends with it.
pub(super) async fn serve_client(
    client: impl Stream,
    mut target: watch::Receiver<Target>,
    newest: watch::Receiver<Option<Newest>>,
    way: &impl Way,
) -> io::Result<()> {
    let lost = || io::Error::new(io::ErrorKind::ConnectionAborted, "the server has changed");
    let mut client = Client::new(client, newest);
    let mut deadline = Instant::now() + limits::CLIENT_HOLD;
    loop {
        let chosen = some_server(&mut target, deadline).await?;
        let followed = chosen.followed().ok_or_else(lost)?;
        if !client.turn_to(followed) {
            return Err(lost());
        }
        let Some(mut server) = reach(&mut target, &chosen, deadline, way).await? else { continue };
        tokio::select! {
            changed = changed(&mut target, &chosen) => changed?,
            result = copy_bidirectional(&mut client, &mut server) => match result {
                Ok(_) => return Ok(()),
                // It may be the first sign that the server is lost.
                Err(error) if client.is_repeatable() => {
                    let news = timeout(limits::CLIENT_DOUBT, changed(&mut target, &chosen)).await;
                    news.map_err(|_| error)??;
                }
                Err(error) => return Err(error),
            }
        }
        if !client.is_repeatable() {
            return Err(lost());
        }
        deadline = Instant::now() + limits::CLIENT_HOLD;
    }
}

/// Reaches a server, trying again until the deadline; none if clients are sent elsewhere meanwhile.
async fn reach(
    target: &mut watch::Receiver<Target>,
    chosen: &Target,
    deadline: Instant,
    way: &impl Way,
) -> io::Result<Option<Box<dyn Stream>>> {
    let mut reason = io::Error::from(io::ErrorKind::TimedOut);
    let trying = async {
        loop {
            match way.reach(chosen).await {
                Ok(server) => return server,
                Err(error) => reason = error,
            }
            sleep(limits::CLIENT_RETRY).await;
        }
    };
    tokio::select! {
        changed = changed(target, chosen) => changed.map(|()| None),
        tried = timeout_at(deadline, trying) => match tried {
            Ok(server) => Ok(Some(server)),
            Err(_) => Err(reason),
        },
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(limits::CLIENT_CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Serves a client that a peer forwards to this node, if the VM runs here. While this node has no server, as during
/// its own restore, the client is held here.
pub(crate) async fn serve_forwarded(
    mut target: watch::Receiver<Target>,
    guest_port: NonZeroU16,
    incoming: IncomingForward,
) {
    let gone = incoming.gone();
    let held = tokio::select! {
        () = gone => return,
        held = some_server(&mut target, Instant::now() + limits::CLIENT_HOLD) => held,
    };
    let address = match &held {
        Ok(Target::Here(_, ports)) => {
            ports.address(guest_port).ok_or("the service has no such port on this node")
        }
        Ok(_) => Err("the service does not run on this node"),
        Err(_) => Err("there is no server"),
    };
    let (chosen, address) = match (held, address) {
        (Ok(chosen), Ok(address)) => (chosen, address),
        (_, Err(reason)) => return incoming.refuse(reason).await,
        (Err(_), Ok(_)) => return,
    };
    let result = tokio::select! {
        _ = target.wait_for(|target| *target != chosen) => return,
        result = accept_forwarded(incoming, address) => result,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a forwarded connection ended");
    }
}

async fn accept_forwarded(incoming: IncomingForward, address: SocketAddr) -> io::Result<()> {
    match connect(address).await {
        Ok(mut guest) => {
            let mut peer = incoming.accept().await.map_err(io::Error::other)?;
            copy_bidirectional(&mut peer, &mut guest).await.map(drop)
        }
        Err(error) => {
            incoming.refuse("the service's VM takes no connections").await;
            Err(error)
        }
    }
}
