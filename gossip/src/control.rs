//! The control lane: messages out and in, and the requests of elections.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use sustain_proto::NodeId;
use sustain_proto::wire::{Lane, Message, Request, Response};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::conduct::What;
use crate::healths::HealthEvent;
use crate::member::{Member, left};
use crate::pace::Pace;
use crate::prober::ProbeEvent;
use crate::transport::frames::{self, StreamError};
use crate::transport::spoken;
use crate::{limits, registry};

const FRAME_MAX: usize = Lane::Control.frame_bytes_max();

/// How long a message may wait for a peer that is connected and takes nothing. Later it would be stale.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends one peer's messages in turn. What can't be sent is dropped: each is followed by a newer one.
pub(crate) async fn send_messages(member: Arc<Member>, to: NodeId, mut outbox: mpsc::Receiver<Message>) {
    while let Some(message) = outbox.recv().await {
        let Some(connection) = member.links.live(to, Lane::Control) else {
            continue;
        };
        // An older peer does without what it doesn't know.
        if message.since() <= spoken::version(&connection) {
            send_message(&connection, &message).await;
        }
    }
}

async fn send_message(connection: &Connection, message: &Message) {
    let work = async {
        let mut stream = connection.open_uni().await.map_err(quinn::WriteError::from)?;
        frames::write(&mut stream, message, FRAME_MAX).await?;
        // Fails only on a stream that is finished already.
        let _ = stream.finish();
        Ok::<(), StreamError>(())
    };
    match timeout(SEND_TIMEOUT, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a message was not sent"),
        Err(_) => tracing::debug!("a message was not sent: the peer takes none"),
    }
}

/// Keeps a control connection to one peer: dials it for ever and takes the answers to probes.
pub(crate) async fn keep_connection(member: Arc<Member>, peer: NodeId) {
    loop {
        match member.links.get(peer, Lane::Control).await {
            Ok(connection) => {
                member.healths.tell(HealthEvent::Connected { peer });
                member.send(peer, member.registry.greeting());
                take_answers(&member, peer, &connection).await;
                registry::heed_removal(&member, peer, &connection);
                member.look_at_end(peer, &connection);
                if left(&connection) {
                    let gone = ProbeEvent::Left { peer };
                    if member.probe_events.send(gone).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::trace!(%error, "no connection yet");
                member.unreachable(peer, &error);
                let shortest = Duration::from_millis(1);
                tokio::time::sleep(member.links.pause(peer, Lane::Control).max(shortest)).await;
            }
        }
    }
}

async fn take_answers(member: &Arc<Member>, peer: NodeId, connection: &Connection) {
    while let Ok(mut stream) = connection.accept_uni().await {
        // Answers are tiny; reading them one by one is enough, and a peer that stalls one harms itself.
        let read = frames::read::<Message>(&mut stream, FRAME_MAX);
        match timeout(limits::FRAME_TIMEOUT, read).await {
            Ok(Ok(Message::ProbeReply { nonce })) => {
                member.standing.talks(&peer);
                let event = ProbeEvent::Answered { peer, nonce, at_ms: member.now_ms() };
                if member.probe_events.send(event).await.is_err() {
                    return;
                }
            }
            Ok(Ok(_)) => member.misbehaved(peer, What::Improper),
            Ok(Err(error)) => blame(member, peer, &error),
            Err(_) => {}
        }
    }
}

/// Serves a control connection that a peer has dialled.
pub(crate) async fn serve(member: &Arc<Member>, peer: NodeId, connection: &Connection) {
    let now_ms = member.now_ms();
    let mut messages = Pace::new(limits::MESSAGES_AT_ONCE, limits::MESSAGES_PER_MINUTE, now_ms);
    let mut packets = Pace::new(limits::PACKETS_AT_ONCE, limits::PACKETS_PER_MINUTE, now_ms);
    let may = |pace: &mut Pace| {
        let may = pace.take(member.now_ms());
        if !may {
            member.misbehaved(peer, What::Flood);
        }
        may
    };
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                let Ok(stream) = stream else { return };
                if !may(&mut messages) {
                    continue;
                }
                let (known, connection) = (member.clone(), connection.clone());
                member.tasks.spawn(async move { take_message(&known, peer, &connection, stream).await });
            }
            datagram = connection.read_datagram() => {
                let Ok(datagram) = datagram else { return };
                if !may(&mut packets) {
                    continue;
                }
                member.healths.tell(HealthEvent::Datagram { from: peer, datagram });
            }
            streams = connection.accept_bi() => {
                let Ok((send, receive)) = streams else { return };
                if !may(&mut messages) {
                    continue;
                }
                let known = member.clone();
                member.tasks.spawn(async move { answer(&known, peer, send, receive).await });
            }
        }
    }
}

async fn take_message(member: &Arc<Member>, peer: NodeId, connection: &Connection, mut stream: RecvStream) {
    let read = frames::read::<Message>(&mut stream, FRAME_MAX);
    match timeout(limits::FRAME_TIMEOUT, read).await {
        Ok(Ok(Message::Probe { nonce })) => send_message(connection, &Message::ProbeReply { nonce }).await,
        // Answers come on the connection on which the probe went.
        Ok(Ok(Message::ProbeReply { .. })) => {}
        Ok(Ok(Message::Roster { digest, is_reply, record })) => {
            registry::introduced(member, peer, record).await;
            registry::heard(member, peer, digest, is_reply).await;
        }
        // Nobody speaks for another node's term.
        Ok(Ok(Message::Heartbeat(heartbeat))) if heartbeat.term.node != peer => {
            member.misbehaved(peer, What::Impostor);
        }
        Ok(Ok(message)) => member.handler.message(peer, message),
        Ok(Err(error)) => {
            tracing::debug!(peer = %peer.short(), %error, "a message was refused");
            blame(member, peer, &error);
        }
        Err(_) => tracing::debug!(peer = %peer.short(), "a message did not arrive whole"),
    }
}

async fn answer(member: &Member, peer: NodeId, mut send: SendStream, mut receive: RecvStream) {
    let Some(request) = take_request(member, peer, Lane::Control, &mut send, &mut receive).await else {
        return;
    };
    let response = match request {
        Request::Claim { term, .. } if term.node != peer => {
            member.misbehaved(peer, What::Impostor);
            Response::refused("the term names another node")
        }
        Request::Roster { nonce, hashes } => member.registry.answer(nonce, hashes),
        request => member.handler.control(peer, request).await,
    };
    respond(Lane::Control, &mut send, &response).await;
}

/// Reads a request and refuses it if it is none for this lane.
pub(crate) async fn take_request(
    member: &Member,
    peer: NodeId,
    lane: Lane,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Option<Request> {
    let read = frames::read::<Request>(receive, lane.frame_bytes_max());
    let refusal = match timeout(limits::FRAME_TIMEOUT, read).await {
        Ok(Ok(request)) if request.lane() != lane => {
            member.misbehaved(peer, What::Lane);
            format!("{} does not belong on the {lane:?} lane", crate::exchange::name(&request))
        }
        Ok(Ok(request)) => match request.check() {
            Ok(()) => return Some(request),
            Err(error) => {
                member.misbehaved(peer, What::Limit);
                error.to_string()
            }
        },
        Ok(Err(error)) => {
            blame(member, peer, &error);
            error.to_string()
        }
        Err(_) => "the request did not arrive whole".to_owned(),
    };
    tracing::debug!(peer = %peer.short(), refusal, "a request was refused");
    respond(lane, send, &Response::refused(refusal)).await;
    None
}

/// Counts what was no frame or no message; that a stream broke is nobody's fault.
fn blame(member: &Member, peer: NodeId, error: &StreamError) {
    if let StreamError::Frame(error) = error {
        What::of_frame(error).into_iter().for_each(|what| member.misbehaved(peer, what));
    }
}

/// Writes a response that nothing follows.
pub(crate) async fn respond(lane: Lane, send: &mut SendStream, response: &Response) {
    let write = frames::write(send, response, lane.frame_bytes_max());
    match timeout(limits::FRAME_TIMEOUT, write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an answer was not sent"),
        Err(_) => tracing::debug!("an answer was not sent: the peer takes none"),
    }
    // Fails only on a stream that is finished already.
    let _ = send.finish();
}
