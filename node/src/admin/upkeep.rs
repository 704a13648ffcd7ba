//! The routes that keep the store small.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use sustain_store::{NamedPin, NoProgress, Pace, RebasePolicy};

use super::routes::{AdminState, Answer, Shared, blocking, body, refuse_sustained};
use crate::operations::Failure;
use crate::retain::retain_files;
use crate::upkeep::{self, GcCall, GcOutput, Keep, PinCall, RebaseCall, RebaseOutput, UnpinCall};

pub(super) async fn rebase(
    State(state): Shared,
    call: Result<Json<RebaseCall>, JsonRejection>,
) -> Answer<RebaseOutput> {
    let call = body(call)?;
    let hint = "`rebase-after` in its configuration says after how many snapshots";
    refuse_sustained(&state, &call.service, "rebases it by itself", hint)?;
    let (store, dry_run, service) = (state.store.clone(), call.dry_run, call.service.clone());
    let output = blocking(move || upkeep::rebase(&store, &call, Pace::Behind, &NoProgress)).await?;
    if let (RebaseOutput::Done(_), false) = (&output, dry_run) {
        retain_files(&state.cluster, &state.store, &service).await;
    }
    Ok(Json(output))
}

/// Collects what was pushed as files. The services of the configuration are their servers'; what those would do can be
/// asked for.
pub(super) async fn gc(State(state): Shared, call: Result<Json<GcCall>, JsonRejection>) -> Answer<GcOutput> {
    let call = body(call)?;
    if let (Some(service), false) = (&call.service, call.dry_run) {
        let hint = "`--dry-run` says what its next rebase drops; `keep-last` and others in its configuration decide it";
        refuse_sustained(&state, service, "collects it by itself", hint)?;
    }
    let known = state.clone();
    let output = blocking(move || collect(&known, &call)).await?;
    if !output.dry_run {
        for report in &output.services {
            retain_files(&state.cluster, &state.store, &report.service).await;
        }
    }
    Ok(Json(output))
}

fn collect(state: &Arc<AdminState>, call: &GcCall) -> Result<GcOutput, Failure> {
    let store = &state.store;
    let mut output = GcOutput { dry_run: call.dry_run, ..GcOutput::default() };
    let services = match &call.service {
        Some(service) => vec![service.clone()],
        None => store.services().map_err(|error| Failure::of(&error, error.kind()))?,
    };
    for service in services {
        let sustained = state.config.services.iter().find(|known| known.name == service);
        let rules = match sustained {
            Some(_) if call.service.is_none() => {
                output.left_to_servers.push(service);
                continue;
            }
            Some(known) if call.keep == Keep::default() => (known.retention(), known.policy()),
            Some(known) => (call.keep.retention(), known.policy()),
            None => (call.keep.retention(), RebasePolicy::default()),
        };
        let how = (call.dry_run, Pace::Behind);
        output.services.push(upkeep::collect(store, &service, rules, how, &NoProgress)?);
    }
    Ok(output)
}

pub(super) async fn pin(
    State(state): Shared,
    call: Result<Json<PinCall>, JsonRejection>,
) -> Answer<NamedPin> {
    let (call, store) = (body(call)?, state.store.clone());
    blocking(move || upkeep::pin(&store, &call)).await.map(Json)
}

pub(super) async fn unpin(State(state): Shared, call: Result<Json<UnpinCall>, JsonRejection>) -> Answer<()> {
    let (call, store) = (body(call)?, state.store.clone());
    blocking(move || upkeep::unpin(&store, &call)).await.map(Json)
}

pub(super) async fn pins(State(state): Shared) -> Answer<Vec<NamedPin>> {
    let store = state.store.clone();
    blocking(move || upkeep::pins(&store)).await.map(Json)
}
