//! The forward lane: clients' connections on their way to the server (P23).

use std::future::Future;
use std::io;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::{Connection, RecvStream, SendStream};
use sustain_proto::wire::{Lane, Request, Response};
use sustain_proto::{NodeId, ServiceName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::control::{respond, take_request};
use crate::error::RequestError;
use crate::exchange::Exchange;
use crate::limits;
use crate::member::Member;
use crate::transport::frames;
use crate::transport::quic::STREAM_ABANDONED;

/// A client's bytes both ways. `shutdown` ends the sending side and leaves the other open. A stream that
/// is dropped before is broken off, so that the other side doesn't take half for the whole.
#[derive(Debug)]
pub struct ForwardStream {
    send: SendStream,
    receive: RecvStream,
    finished: bool,
}

impl ForwardStream {
    fn new(send: SendStream, receive: RecvStream) -> Self {
        Self { send, receive, finished: false }
    }
}

impl AsyncRead for ForwardStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), context, buffer)
    }
}

impl AsyncWrite for ForwardStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        self.finished = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), context)
    }
}

impl Drop for ForwardStream {
    fn drop(&mut self) {
        if !self.finished {
            // Fails only on a stream that is closed already.
            let _ = self.send.reset(STREAM_ABANDONED);
        }
    }
}

/// A client that a peer wants to forward to here. Dropping it breaks the stream off without a reason.
#[derive(Debug)]
pub struct IncomingForward {
    stream: ForwardStream,
}

impl IncomingForward {
    /// Takes the client: its bytes follow.
    ///
    /// # Errors
    /// If the peer has gone meanwhile.
    pub async fn accept(mut self) -> io::Result<ForwardStream> {
        let frame_max = Lane::Forward.frame_bytes_max();
        let write = frames::write(&mut self.stream.send, &Response::Connected, frame_max);
        match tokio::time::timeout(limits::FRAME_TIMEOUT, write).await {
            Ok(written) => written.map_err(io::Error::other)?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        Ok(self.stream)
    }

    /// Resolves when the peer no longer wants the connection, or is gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.stream.send.stopped();
        async move { drop(stopped.await) }
    }

    /// Sends the client away, and says why.
    pub async fn refuse(mut self, reason: &str) {
        respond(Lane::Forward, &mut self.stream.send, &Response::refused(reason)).await;
        self.stream.finished = true;
    }
}

/// Asks a peer to connect a client to a port of a service there.
pub(crate) async fn connect(
    member: &Member,
    to: NodeId,
    service: ServiceName,
    guest_port: NonZeroU16,
) -> Result<ForwardStream, RequestError> {
    let request = Request::Connect { service, guest_port };
    let exchange = Exchange::new(to, &request);
    let work = async {
        let (send, receive) = exchange.open(member, &request).await?;
        // From here on, giving up breaks the stream off.
        let mut stream = ForwardStream::new(send, receive);
        match exchange.answer(member, &mut stream.receive, Lane::Forward.frame_bytes_max()).await? {
            Response::Connected => Ok(stream),
            _ => Err(exchange.other_answer(member)),
        }
    };
    exchange.within(member.request_timeout(), work).await
}

/// Serves a forward connection that a peer has dialled.
pub(crate) async fn serve(member: &Arc<Member>, peer: NodeId, connection: &Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let known = member.clone();
        member.tasks.spawn(async move {
            let request = take_request(&known, peer, Lane::Forward, &mut send, &mut receive).await;
            // No other request belongs on this lane.
            if let Some(Request::Connect { service, guest_port }) = request {
                let incoming = IncomingForward { stream: ForwardStream::new(send, receive) };
                known.handler.connect(peer, service, guest_port, incoming).await;
            }
        });
    }
}
