//! Lets nodes in that were invited: the one protocol that strangers may speak, and the least of all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quinn::Connection;
use sustain_proto::join::{JoinAnswer, JoinRefusal, JoinRequest, Offered, Welcome};
use sustain_proto::wire::Lane;
use sustain_proto::{Details, NodeId};
use sustain_store::error_chain;
use tokio::time::timeout;

use crate::error::MembershipError;
use crate::member::Member;
use crate::membership::RosterError;
use crate::transport::{frames, quic};
use crate::{limits, registry};

/// By the system's clock; invitations end by it.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Lets strangers through TLS for as long as there is an invitation with which they may come.
pub(crate) fn open_door(member: &Member) {
    member.pinned.let_strangers(member.invitations.any_open(wall_ms()));
}

/// Serves a connection of a node that wants to join.
pub(crate) async fn serve(member: &Arc<Member>, node: NodeId, connection: &Connection) {
    let Ok(_permit) = member.joins.try_acquire() else {
        connection.close(quic::CLOSE_REFUSED, b"too many nodes join at once");
        return;
    };
    let address = connection.remote_address();
    if timeout(limits::JOIN_TIMEOUT, answer(member, node, connection)).await.is_err() {
        tracing::info!(node = %node.short(), %address, "a node that wants to join takes too long, and is dropped");
    }
    connection.close(quic::CLOSE_REFUSED, b"");
}

async fn answer(member: &Arc<Member>, node: NodeId, connection: &Connection) {
    quic::admit_one(connection);
    let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
    let address = connection.remote_address();
    let request = match frames::read::<JoinRequest>(&mut receive, limits::JOIN_REQUEST_BYTES_MAX).await {
        Ok(request) => request,
        Err(error) => {
            tracing::info!(node = %node.short(), %address, %error, "what a node says to join is refused");
            return;
        }
    };
    let answer = match admit(member, node, address, request).await {
        Ok(welcome) => {
            let name = &welcome.details.name;
            tracing::info!(node = %node.short(), name, address = %welcome.details.address, "a node has joined");
            JoinAnswer::Welcome(welcome)
        }
        Err(refusal) => {
            tracing::info!(node = %node.short(), %address, %refusal, "a node does not join");
            JoinAnswer::Refused(refusal)
        }
    };
    if let Err(error) = frames::write(&mut send, &answer, Lane::Control.frame_bytes_max()).await {
        tracing::info!(node = %node.short(), %address, %error, "the answer to a node that joins was not sent");
        return;
    }
    // Fails only on a stream that is finished already.
    let _ = send.finish();
    // Until it has it all, or is gone.
    let _ = send.stopped().await;
}

async fn admit(
    member: &Arc<Member>,
    node: NodeId,
    from: SocketAddr,
    request: JoinRequest,
) -> Result<Welcome, JoinRefusal> {
    let JoinRequest { secret, mut details } = request;
    if details.address.ip().is_unspecified() {
        details.address.set_ip(from.ip());
    }
    // Who is not invited learns nothing of the members.
    member.invitations.look(&secret, node, wall_ms())?;
    check(member, node, &details)?;
    let known = member.clone();
    let redeemed = member.tasks.blocking(move || known.invitations.redeem(&secret, node, wall_ms())).await;
    let holder =
        redeemed.map_err(|_| JoinRefusal::Other { reason: "this node is stopping".to_owned() })??;
    open_door(member);
    registry::admit(member, node, details.clone()).await.map_err(|error| match error {
        MembershipError::Roster(RosterError::Removed { .. }) => JoinRefusal::Removed,
        error => JoinRefusal::Other { reason: error_chain(&error) },
    })?;
    let secrets = if holder { None } else { member.handler.secrets() };
    let (facts, services) = (member.registry.facts_for(node), offered(member, holder));
    Ok(Welcome { cluster: member.cluster.clone(), details, secrets, facts, services })
}

/// The services, with their definitions for a node that may run them, as far as there is room.
fn offered(member: &Member, holder: bool) -> Vec<Offered> {
    let mut room = sustain_proto::limits::DEFINITIONS_BYTES_MAX;
    let mut services = member.handler.services();
    services.truncate(sustain_proto::limits::OFFERED_MAX);
    for service in &mut services {
        let bytes = service.definition.as_ref().map_or(0, String::len);
        if holder || bytes > sustain_proto::limits::DEFINITION_BYTES_MAX || bytes > room {
            service.definition = None;
        } else {
            room -= bytes;
        }
    }
    services
}

/// What would spoil it, before the invitation is used up.
fn check(member: &Member, node: NodeId, details: &Details) -> Result<(), JoinRefusal> {
    details.check().map_err(|error| JoinRefusal::Other { reason: error.to_string() })?;
    if member.registry.removed(&node).is_some() {
        return Err(JoinRefusal::Removed);
    }
    let members = member.registry.members();
    if members.iter().any(|(other, known)| *other != node && known.name == details.name) {
        return Err(JoinRefusal::NameTaken { name: details.name.clone() });
    }
    if let Some((_, known)) =
        members.iter().find(|(other, known)| **other != node && known.address == details.address)
    {
        let (name, address) = (&known.name, known.address);
        return Err(JoinRefusal::Other { reason: format!("{name} has the address {address}") });
    }
    Ok(())
}
