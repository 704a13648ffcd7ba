//! A request and its answer, as the asking side sees them.

use std::future::Future;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use sustain_proto::NodeId;
use sustain_proto::wire::{Request, Response};

use crate::conduct::What;
use crate::error::RequestError;
use crate::member::Member;
use crate::transport::frames::{self, StreamError};
use crate::transport::spoken;

/// What a request is called in errors.
pub(crate) fn name(request: &Request) -> &'static str {
    match request {
        Request::Poll { .. } => "a poll",
        Request::Roster { .. } => "a question about the roster",
        Request::Claim { .. } => "a claim",
        Request::Snapshots { .. } => "a list of snapshots",
        Request::GetManifest { .. } => "a request for a manifest",
        Request::HavePacks { .. } => "a question about packs",
        Request::GetPack { .. } => "a request for a pack",
        Request::GetGroups { .. } => "a request for lists of groups",
        Request::GetRanges { .. } => "a request for ranges of pieces",
        Request::Ask(_) => "a request for a part",
        Request::HaveFragments { .. } => "a question about fragments",
        Request::GetSheets { .. } => "a request for sheets",
        Request::Connect { .. } => "a connection to a service",
    }
}

/// One request under way.
#[derive(Clone, Copy)]
pub(crate) struct Exchange {
    pub(crate) to: NodeId,
    pub(crate) what: &'static str,
}

impl Exchange {
    pub(crate) fn new(to: NodeId, request: &Request) -> Self {
        Self { to, what: name(request) }
    }

    /// Waits so long and no longer.
    pub(crate) async fn within<T>(
        self,
        limit: Duration,
        work: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => {
                let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Err(RequestError::Timeout { node: self.to, what: self.what, timeout_ms })
            }
        }
    }

    /// Opens a stream and writes the request.
    pub(crate) async fn open(
        self,
        member: &Member,
        request: &Request,
    ) -> Result<(SendStream, RecvStream), RequestError> {
        let unsendable = |source| RequestError::Unsendable { what: self.what, source };
        request.check().map_err(|error| unsendable(Box::new(error)))?;
        let lane = request.lane();
        let connection = member.links.get(self.to, lane).await?;
        let version = spoken::version(&connection);
        if request.since() > version {
            return Err(RequestError::Unspoken { node: self.to, what: self.what, version });
        }
        member.count_request();
        let (mut send, receive) =
            connection.open_bi().await.map_err(|error| self.broken(error.to_string()))?;
        match frames::write(&mut send, request, lane.frame_bytes_max()).await {
            Ok(()) => Ok((send, receive)),
            Err(StreamError::Frame(error)) => Err(unsendable(Box::new(error))),
            Err(error) => Err(self.broken(sustain_store::error_chain(&error))),
        }
    }

    /// Reads the answer; a refusal is an error, and one that no node gives which keeps to the protocol is misconduct.
    pub(crate) async fn answer(
        self,
        member: &Member,
        receive: &mut RecvStream,
        frame_bytes_max: usize,
    ) -> Result<Response, RequestError> {
        let response = match frames::read::<Response>(receive, frame_bytes_max).await {
            Ok(response) => response,
            Err(StreamError::Frame(error)) => {
                What::of_frame(&error).into_iter().for_each(|what| member.misbehaved(self.to, what));
                return Err(self.improper(error.to_string()));
            }
            Err(error) => return Err(self.broken(sustain_store::error_chain(&error))),
        };
        response.check().map_err(|error| {
            member.misbehaved(self.to, What::Limit);
            self.improper(error.to_string())
        })?;
        match response {
            Response::Refused { reason } => {
                Err(RequestError::Refused { node: self.to, what: self.what, reason })
            }
            response => Ok(response),
        }
    }

    pub(crate) fn broken(self, reason: String) -> RequestError {
        RequestError::Broken { node: self.to, what: self.what, reason }
    }

    /// What came answers something else.
    pub(crate) fn other_answer(self, member: &Member) -> RequestError {
        member.misbehaved(self.to, What::Improper);
        self.improper("another answer was expected")
    }

    /// What came is not what was asked for.
    pub(crate) fn improper(self, reason: impl Into<String>) -> RequestError {
        RequestError::Improper { node: self.to, what: self.what, reason: reason.into() }
    }
}

impl Member {
    /// Sends a request that nothing follows, and waits for its answer.
    pub(crate) async fn request(
        &self,
        to: NodeId,
        request: &Request,
        limit: Duration,
    ) -> Result<Response, RequestError> {
        let exchange = Exchange::new(to, request);
        let work = async {
            let (mut send, mut receive) = exchange.open(self, request).await?;
            // Fails only on a stream that is finished already.
            let _ = send.finish();
            exchange.answer(self, &mut receive, request.lane().frame_bytes_max()).await
        };
        exchange.within(limit, work).await
    }
}
