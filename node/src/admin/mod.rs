//! The admin API: HTTP and JSON on a Unix socket of mode 0600. `snapctl` is its client.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | [`NodeStatus`] |
//! | `GET /v1/events?after=N&wait_ms=T` | the events after number N, at once or when there is one |
//! | `POST /v1/push` [`PushCall`] | what was stored; it is kept by all from then on |
//! | `POST /v1/gather` [`GatherCall`] | fetched if need be, and written to a folder, unless the caller goes away |
//! | `GET /v1/gather?watch=N` | the [`GatherProgress`] of the call with this number, or null |
//! | `POST /v1/rebase` [`RebaseCall`](crate::upkeep::RebaseCall) | what was dropped and kept |
//! | `POST /v1/gc` [`GcCall`](crate::upkeep::GcCall) | what was collected |
//! | `POST /v1/pin` [`PinCall`](crate::upkeep::PinCall) | the pin |
//! | `POST /v1/unpin` [`UnpinCall`](crate::upkeep::UnpinCall) | nothing |
//! | `GET /v1/pins` | the pins of this node |
//! | `GET /v1/log?service=NAME` | the snapshots held here, oldest first |
//! | `POST /v1/invite` [`InviteCall`] | a token with which one node may join |
//! | `POST /v1/remove` [`RemoveCall`] | the node that was removed for ever |
//! | `POST /v1/verify` [`VerifyCall`](crate::verify::VerifyCall) | what was read, and what is damaged |
//!
//! A failure is a [`Failure`](crate::operations::Failure) with status 400, 404, 409 or 500.

mod api;
mod gather;
mod membership;
mod routes;
mod server;
mod upkeep;

pub use api::{
    EventsQuery, GatherCall, GatherProgress, InviteCall, Invited, NodeStatus, PeerView, PushCall, RemoveCall,
    Removed, RemovedView, ServiceCall,
};
pub(crate) use gather::Gathers;
pub(crate) use routes::AdminState;
pub(crate) use server::{bind, serve};
