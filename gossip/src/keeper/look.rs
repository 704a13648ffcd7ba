//! Logic: what can be seen of a keeper from outside.

use std::sync::Arc;

use sustain_proto::{NodeId, ServiceName};

use super::Keeper;
use super::catalog::Catalog;
use super::claims::Claim;
use super::line::Line;
use super::message::Request;
use super::steward::Steward;

/// How much a keeper holds in memory, by what it is: each is bounded by [`crate::limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Parts that are being fetched.
    pub jobs: usize,
    /// Requests without an answer.
    pub requests: usize,
    /// Requests of others that are being served.
    pub serving: usize,
    /// Others that wait for parts.
    pub waiting: usize,
    /// Claims known.
    pub claims: usize,
    /// Claims to be passed on.
    pub pending: usize,
    /// Reports counted.
    pub reports: usize,
    /// Parts that are here.
    pub parts: usize,
    /// Lines whose catalogs are kept.
    pub lines: usize,
    /// Catalogs that are asked for.
    pub offers: usize,
    /// Catalogs that have come in part.
    pub drafts: usize,
}

impl Keeper {
    /// How much is in memory.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            jobs: self.jobs.len(),
            requests: self.jobs.in_flight(),
            serving: self.serving.len(),
            waiting: self.serving.waiting(),
            claims: self.claims.known(),
            pending: self.pending_claims.len(),
            reports: self.stewards.values().map(Steward::len).sum(),
            parts: self.shelf.len(),
            lines: self.lines.len(),
            offers: self.offers.len(),
            drafts: self.drafts.len(),
        }
    }

    /// What this node has yet to do, in words: fetch, move, or drop. Empty if nothing.
    #[must_use]
    pub fn unfinished(&self) -> String {
        let lacking = self.wants.keys().filter(|part| !self.shelf.is_synced(part)).count();
        let surplus = self.shelf.parts().filter(|part| !self.is_wanted(part)).count();
        let jobs = self.jobs.len();
        let moving = self.claim.moving;
        if lacking + surplus + jobs == 0 && moving.is_none() {
            return String::new();
        }
        format!(
            "{lacking} parts are not synced, {surplus} not dropped, {jobs} being fetched, moving to {moving:?}"
        )
    }

    /// Whether a request of this node is still to be answered.
    #[must_use]
    pub fn awaits(&self, request: Request) -> bool {
        self.jobs.awaits(request)
    }

    /// This node's claim.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// The newest catalog of the greatest term that is known of a service.
    #[must_use]
    pub fn catalog(&self, service: &ServiceName) -> Option<&Arc<Catalog>> {
        self.lines.of(service).next()
    }

    /// The newest catalogs of all lines of a service, the greatest term first.
    pub fn catalogs(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Catalog>> {
        self.lines.of(service)
    }

    /// The newest catalog of a line.
    #[must_use]
    pub fn catalog_of_line(&self, line: &Line) -> Option<&Arc<Catalog>> {
        self.lines.get(line)
    }

    /// On a line's server: the nodes that their caps on storage keep from holding all that they should of it.
    #[must_use]
    pub fn capped(&self, line: &Line) -> Vec<NodeId> {
        self.stewards.get(line).map(Steward::capped).unwrap_or_default()
    }

    /// Bytes of parts that are here.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.shelf.bytes()
    }

    /// Bytes that this node should hold and does not, because of its cap.
    #[must_use]
    pub fn short_bytes(&self) -> u64 {
        self.short_bytes
    }
}
