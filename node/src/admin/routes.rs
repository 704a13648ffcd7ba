//! The routes of the admin API.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use sustain_gossip::Cluster;
use sustain_proto::ServiceName;
use sustain_store::{NoProgress, Pace, ServiceKeys, Store, VerifyReport};

use super::api::{EventsQuery, LogEntry, NodeStatus, PeerView, PushCall, RemovedView, ServiceCall};
use super::gather::{self, Gathers};
use super::{membership, upkeep};
use crate::config::Config;
use crate::events::{EventLog, NodeEvent};
use crate::limits;
use crate::log::{self, Listed};
use crate::operations::{self, Failure, PushFiles, PushOutput};
use crate::retain::retain_files;
use crate::scrub::ScrubWatch;
use crate::service::ServiceHandle;
use crate::verify::{self, VerifyCall};

/// What the routes work on.
pub(crate) struct AdminState {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
    pub(crate) services: Vec<ServiceHandle>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) scrub: Arc<ScrubWatch>,
    pub(crate) gathers: Gathers,
}

pub(super) type Shared = State<Arc<AdminState>>;
pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// All routes.
pub(super) fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/push", post(push))
        .route("/v1/gather", post(gather::gather).get(gather::progress))
        .route("/v1/rebase", post(upkeep::rebase))
        .route("/v1/gc", post(upkeep::gc))
        .route("/v1/pin", post(upkeep::pin))
        .route("/v1/unpin", post(upkeep::unpin))
        .route("/v1/pins", get(upkeep::pins))
        .route("/v1/keys", get(keys))
        .route("/v1/invite", post(membership::invite))
        .route("/v1/remove", post(membership::remove))
        .route("/v1/log", get(log))
        .route("/v1/verify", post(verify))
        .layer(DefaultBodyLimit::max(limits::ADMIN_BODY_BYTES_MAX))
        .with_state(state)
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.exit_code {
            2 => StatusCode::BAD_REQUEST,
            10 => StatusCode::NOT_FOUND,
            11 => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}

pub(super) fn body<T>(parsed: Result<Json<T>, JsonRejection>) -> Result<T, Failure> {
    parsed.map(|Json(call)| call).map_err(|error| Failure::new(2, error.body_text()))
}

pub(super) fn query<T>(parsed: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    parsed.map(|Query(call)| call).map_err(|error| Failure::new(2, error.body_text()))
}

/// Runs what blocks on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::new(1, error.to_string()))?
}

async fn status(State(state): Shared) -> Answer<NodeStatus> {
    let mut services = Vec::new();
    for service in &state.services {
        services.extend(service.status().await);
    }
    let view = |peer: sustain_gossip::PeerStatus| PeerView {
        name: peer.peer.name,
        id: peer.peer.id,
        address: peer.peer.address.to_string(),
        priority: peer.peer.priority,
        reachable: peer.reachable,
        neighbour: peer.neighbour,
        domain: peer.peer.domain,
        health: peer.health,
        health_for_ms: peer.health_for_ms,
        for_ms: peer.for_ms,
        rtt_ms: peer.rtt_ms,
        refuses: peer.refuses,
    };
    let removed = state.cluster.removed().into_iter();
    let removed = removed.map(|(id, it)| RemovedView { id, name: it.name, by: it.by });
    Ok(Json(NodeStatus {
        cluster: state.config.cluster.clone(),
        name: state.config.name.clone(),
        id: state.cluster.node_id(),
        address: state.cluster.local_address().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        domain: state.config.own().map(|own| own.domain.clone()).unwrap_or_default(),
        peers: state.cluster.peers().into_iter().map(view).collect(),
        removed: removed.collect(),
        keeping: state.cluster.keeping().await,
        services,
        scrub: state.scrub.status(state.config.scrub.enabled, &state.store),
    }))
}

async fn events(
    State(state): Shared,
    call: Result<Query<EventsQuery>, QueryRejection>,
) -> Answer<Vec<NodeEvent>> {
    let call = query(call)?;
    let patience = Duration::from_millis(call.wait_ms).min(limits::EVENTS_WAIT_MAX);
    Ok(Json(state.events.wait_after(call.after, patience).await))
}

/// A service of the configuration is snapshotted and rebased by its server alone: files pushed in between would
/// be restored as if they were its state.
pub(super) fn refuse_sustained(
    state: &AdminState,
    service: &ServiceName,
    what: &str,
    hint: &str,
) -> Result<(), Failure> {
    if state.config.services.iter().any(|known| known.name == *service) {
        return Err(Failure::new(2, format!("{service} is a service of this cluster: its server {what}"))
            .with_hint(hint));
    }
    Ok(())
}

async fn push(State(state): Shared, call: Result<Json<PushCall>, JsonRejection>) -> Answer<PushOutput> {
    let call = body(call)?;
    let hint = "push files under another service name";
    refuse_sustained(&state, &call.service, "takes its snapshots", hint)?;
    let paths = call.regions.iter().flat_map(|region| std::iter::once(&region.path).chain(&region.changed));
    if let Some(path) = paths.into_iter().find(|path| !path.is_absolute()) {
        return Err(Failure::new(2, format!("{} is no absolute path", path.display())));
    }
    let (store, service) = (state.store.clone(), call.service.clone());
    let node = state.cluster.node_id();
    let output = blocking(move || {
        let files =
            PushFiles { service: &call.service, regions: &call.regions, since: call.since.as_deref() };
        operations::push(&store, &files, node, &NoProgress)
    })
    .await?;
    retain_files(&state.cluster, &state.store, &service).await;
    Ok(Json(output))
}

async fn log(
    State(state): Shared,
    call: Result<Query<ServiceCall>, QueryRejection>,
) -> Answer<Vec<LogEntry>> {
    let call = query(call)?;
    let (store, node) = (state.store.clone(), state.cluster.node_id());
    // The server of a service tells all nodes that have it in their configuration; of plain files only the node
    // that stored them hears.
    let told = state.config.services.iter().any(|known| known.name == call.service);
    let list = blocking(move || log::log(&store, &call.service)).await?;
    let entry = |listed: Listed| {
        let info = &listed.info;
        let is_told = told || info.durable || info.term.node == node;
        LogEntry { durable: is_told.then_some(info.durable), listed }
    };
    Ok(Json(list.into_iter().map(entry).collect()))
}

async fn keys(State(state): Shared) -> Answer<Vec<ServiceKeys>> {
    let store = state.store.clone();
    blocking(move || Ok(store.all_keys())).await.map(Json)
}

/// Services go on beside it. Packs that are set aside are then sent again by other nodes.
async fn verify(State(state): Shared, call: Result<Json<VerifyCall>, JsonRejection>) -> Answer<VerifyReport> {
    let (store, call) = (state.store.clone(), body(call)?);
    blocking(move || verify::verify(&store, &call, Pace::Behind, &NoProgress)).await.map(Json)
}
