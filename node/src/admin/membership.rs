//! The routes that change who belongs to the cluster.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use sustain_gossip::{ErrorKind, MembershipError, Peer};
use sustain_store::error_chain;

use super::api::{InviteCall, Invited, RemoveCall, Removed};
use super::routes::{AdminState, Answer, Shared, body};
use crate::clock;
use crate::operations::Failure;

/// Makes an invitation.
pub(super) async fn invite(
    State(state): Shared,
    call: Result<Json<InviteCall>, JsonRejection>,
) -> Answer<Invited> {
    let InviteCall { holder, valid_ms } = body(call)?;
    if !holder && state.config.secret_file.is_none() {
        return Err(Failure::new(2, "this node has no secret of the cluster to give").with_hint(
            "invite with `--holder` a node that is to hold data only, or invite on a node with `secret-file`",
        ));
    }
    let token = state.cluster.invite(holder, Duration::from_millis(valid_ms)).await;
    let token = token.map_err(|error| failure(&error))?;
    let text = token.to_text().map_err(|error| Failure::new(1, error.to_string()))?;
    let expires_ms = clock::wall_ms().saturating_add(valid_ms);
    Ok(Json(Invited { token: text, expires_ms, holder, addresses: token.addresses }))
}

/// Removes a node.
pub(super) async fn remove(
    State(state): Shared,
    call: Result<Json<RemoveCall>, JsonRejection>,
) -> Answer<Removed> {
    let RemoveCall { node, force, dry_run } = body(call)?;
    let peer = find(&state, &node)?;
    if !force {
        object(&state, &peer).await?;
    }
    if !dry_run {
        state.cluster.remove(peer.id).await.map_err(|error| failure(&error))?;
    }
    Ok(Json(Removed { id: peer.id, name: peer.name, address: peer.address.to_string() }))
}

/// The one node that a text names, by its name or by the beginning of its id.
fn find(state: &AdminState, text: &str) -> Result<Peer, Failure> {
    let own = state.cluster.node_id();
    if text == state.config.name || (text.len() >= 4 && own.to_string().starts_with(text)) {
        return Err(Failure::new(2, "a node can't remove itself: whom it has admitted would go with it")
            .with_hint("run `snapctl remove` at another node, with that one's --config"));
    }
    let peers = state.cluster.peers().into_iter().map(|status| status.peer);
    let named = |peer: &Peer| peer.name == text || (text.len() >= 4 && peer.id.to_string().starts_with(text));
    let mut found: Vec<Peer> = peers.filter(named).collect();
    match (found.pop(), found.len()) {
        (Some(peer), 0) => Ok(peer),
        (Some(_), _) => Err(Failure::new(2, format!("several nodes are called {text}"))
            .with_hint("name it by its id: `snapctl status --json` shows all of it")),
        (None, _) => {
            let is_it =
                |removed: &sustain_gossip::membership::RemovedNode| removed.name.as_deref() == Some(text);
            let gone =
                state.cluster.removed().into_iter().any(|(id, it)| is_it(&it) || id.to_string() == text);
            let what = if gone { "was removed already" } else { "is no member of this cluster" };
            Err(Failure::new(10, format!("{text} {what}")).with_hint("`snapctl status` lists the members"))
        }
    }
}

/// What speaks against removing a node, unless it is meant.
async fn object(state: &AdminState, peer: &Peer) -> Result<(), Failure> {
    if state.cluster.peers().len() == 1 {
        return Err(Failure::new(2, format!("{} is the last other node", peer.name))
            .with_hint("`--force` removes it all the same; nothing is durable on a single node"));
    }
    for service in &state.services {
        let server = service.status().await.and_then(|status| status.server);
        if server == Some(peer.id) {
            return Err(Failure::new(2, format!("{} is the server of {}", peer.name, service.name()))
                .with_hint("`--force` removes it all the same: its VM ends, and another node takes over"));
        }
    }
    Ok(())
}

fn failure(error: &MembershipError) -> Failure {
    let exit_code = match error.kind() {
        ErrorKind::NotFound => 10,
        ErrorKind::Refused => 2,
        _ => 1,
    };
    Failure::new(exit_code, error_chain(error))
}
