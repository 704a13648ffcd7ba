//! Clients (P23): every node accepts the service's port and forwards to the current server.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use sustain_gossip::{Cluster, IncomingForward};
use sustain_proto::ServiceName;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
                result = serve_client(client, &port) => {
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

/// Holds a client until there is a server, then connects the two until either ends or the server changes:
/// what a lost server had begun to say can't be continued by another.
async fn serve_client(client: TcpStream, port: &ClientPort) -> io::Result<()> {
    let mut target = port.target.clone();
    let waiting = target.wait_for(|target| *target != Target::Nowhere);
    let chosen = match timeout(limits::CLIENT_HOLD, waiting).await {
        Ok(Ok(chosen)) => chosen.clone(),
        Ok(Err(error)) => return Err(io::Error::other(error)),
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "there is no server")),
    };
    let changed = async {
        // An error says that the service's task has ended, which ends the connection too.
        let _ = target.wait_for(|target| *target != chosen).await;
    };
    tokio::select! {
        () = changed => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has changed")),
        result = connect_and_copy(client, port, &chosen) => result,
    }
}

async fn connect_and_copy(client: TcpStream, port: &ClientPort, chosen: &Target) -> io::Result<()> {
    match chosen {
        Target::Nowhere => Ok(()),
        Target::Here(ports) => {
            let missing = || io::Error::new(io::ErrorKind::NotFound, "the VM has no such port");
            let address = ports.address(port.guest_port).ok_or_else(missing)?;
            copy(client, connect(address).await?).await
        }
        Target::Node(node) => {
            let stream = port.cluster.forward(*node, port.service.clone(), port.guest_port).await;
            copy(client, stream.map_err(io::Error::other)?).await
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(limits::CLIENT_CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn copy(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    copy_bidirectional(&mut one, &mut other).await.map(drop)
}

/// Serves a client that a peer forwards to this node, if the VM runs here.
pub(crate) async fn serve_forwarded(
    mut target: watch::Receiver<Target>,
    guest_port: NonZeroU16,
    incoming: IncomingForward,
) {
    let chosen = target.borrow_and_update().clone();
    let address = match &chosen {
        Target::Here(ports) => ports.address(guest_port).ok_or("the service has no such port on this node"),
        _ => Err("the service does not run on this node"),
    };
    let address = match address {
        Ok(address) => address,
        Err(reason) => return incoming.refuse(reason).await,
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
        Ok(guest) => copy(incoming.accept().await.map_err(io::Error::other)?, guest).await,
        Err(error) => {
            incoming.refuse("the service's VM takes no connections").await;
            Err(error)
        }
    }
}
