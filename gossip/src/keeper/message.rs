//! Logic: what keepers say to each other. Bytes of parts do not travel in messages, but as [`Action::Serve`] has the
//! driver send them.
//!
//! [`Action::Serve`]: super::Action::Serve

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, ServiceName, Term};

use super::catalog::{Catalog, Version};
use super::claims::{Buckets, Claim};
use super::part::Part;
use super::ranges::Ranges;
use crate::holdings::Fragment;

/// Numbers the requests of one life of a node.
pub type Request = u64;

/// What one keeper says to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// What is known here, in short: who hears it asks for what it lacks, and says what is newer.
    Digest {
        /// The newest catalog of each service.
        catalogs: Vec<(ServiceName, Version)>,
        /// Hashes of the claims; none if this is only about catalogs.
        buckets: Option<Box<Buckets>>,
    },
    /// Asks for the catalogs of these services.
    Get {
        /// The services.
        services: Vec<ServiceName>,
    },
    /// A catalog.
    Catalog(Arc<Catalog>),
    /// Claims that may be news.
    Claims {
        /// The claims.
        claims: Vec<Claim>,
        /// Buckets that these are all claims of: who has other ones or newer ones there answers with them.
        differing: u64,
    },
    /// Asks for bytes of a part.
    Ask {
        /// Which request it is.
        request: Request,
        /// The part.
        part: Part,
        /// Bytes that are missing. Any of them, in one range, will do.
        missing: Ranges,
        /// Nobody else could be found for a while.
        is_stuck: bool,
    },
    /// The bytes of this range follow.
    Grant {
        /// Which request it answers.
        request: Request,
        /// What comes.
        range: (u64, u64),
    },
    /// No bytes come.
    Refuse {
        /// Which request it answers.
        request: Request,
        /// Why.
        why: Refusal,
    },
    /// More of a part is here, for whom it could not be given before.
    Have {
        /// The part.
        part: Part,
        /// What is here.
        ranges: Ranges,
    },
    /// What a node has synced, for the service's server.
    Report(Report),
    /// The server counts this report and those before it no more.
    Counted {
        /// The service.
        service: ServiceName,
        /// The life in which the report was made.
        life: u64,
        /// Its number.
        number: u64,
        /// Everything up to here is spread: who made fragments of it needs the whole packs no more.
        spread_to: u64,
    },
}

/// Why no bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// They are not here.
    Lack {
        /// What is here.
        have: Ranges,
        /// Whether more will come; a [`Message::Have`] says so then.
        is_coming: bool,
    },
    /// Too much is being sent.
    Busy,
    /// Others have them, or will, and are to be asked.
    Elsewhere {
        /// These.
        nodes: Vec<NodeId>,
    },
}

/// What a node has synced of a service. The server counts the newest one of each node only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The service.
    pub service: ServiceName,
    /// The term of the catalog that it goes by.
    pub term: Term,
    /// Who says so.
    pub node: NodeId,
    /// Greater after each start of the node.
    pub life: u64,
    /// Counts its reports of the service in this life.
    pub number: u64,
    /// Whether whole packs are meant; else fragments, and whole packs only where they are not cut.
    pub is_whole: bool,
    /// Which fragments are meant.
    pub index: Option<Fragment>,
    /// All entries that were added up to here are synced. Zero: nothing.
    pub to: u64,
}
