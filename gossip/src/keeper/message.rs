//! Logic: what keepers say to each other. Bytes of parts do not travel in messages, but as [`Action::Serve`] has the
//! driver send them.
//!
//! [`Action::Serve`]: super::Action::Serve

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, ServiceName, Term, bounded};

use super::catalog::{Catalog, Version};
use super::claims::{Buckets, Claim};
use super::part::Part;
use super::ranges::Ranges;
use crate::holdings::Fragment;
use crate::limits;

/// Numbers the requests of one life of a node.
pub type Request = u64;

/// What one keeper says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// What is known here, in short: who hears it asks for what it lacks, and says what is newer.
    Digest {
        /// The newest catalog of each line of each service.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::LINES_TOLD_MAX }>")]
        catalogs: Vec<(ServiceName, Version)>,
        /// Hashes of the claims; none if this is only about catalogs.
        buckets: Option<Box<Buckets>>,
    },
    /// Asks for the newest catalog of a line.
    Get {
        /// The service.
        service: ServiceName,
        /// The line.
        term: Term,
        /// Catalogs that are known, of this line and of others: what stands in them need not come again.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::LINES_MAX }>")]
        known: Vec<Version>,
    },
    /// A catalog, or some of it.
    Catalog(Box<Page>),
    /// Claims that may be news.
    Claims {
        /// The claims.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::CLAIMS_MAX }>")]
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
        /// The line.
        term: Term,
        /// The life in which the report was made.
        life: u64,
        /// Its number.
        number: u64,
        /// Everything up to here is spread: who made fragments of it needs the whole packs no more.
        spread_to: u64,
    },
}

/// What is new in a catalog since one that is known, or all of it; where that is too much for a message, its beginning.
///
/// Who gets it puts together what it knows and what came. That is the whole catalog if there are as many entries as are
/// said; else it asks again, and names the last entry that came as the catalog that it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The catalog, with those entries only that come.
    pub catalog: Catalog,
    /// Entries that it has in all.
    pub entries: u32,
    /// What comes was added after this one; none if everything comes.
    pub since: Option<Version>,
    /// Which of the entries of that one are still retained, by their numbers; the end of a range is not in it.
    pub kept: Ranges,
}

/// Why no bytes come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::HINTS_MAX }>")]
        nodes: Vec<NodeId>,
    },
}

/// What a node has synced of a line. The server counts the newest one of each node only.
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
    /// Whether it is this node's cap on storage that keeps it from holding more.
    pub is_capped: bool,
}
