//! What this node is the server of.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{Cut, Held, NodeId, ServiceName, Term, TermOrigin};
use sustain_store::error_chain;

use super::owner::Owner;
use super::{Inlet, Listed};
use crate::depot::DepotError;
use crate::keeper::{Event, Line};
use crate::limits;
use crate::transport::links::lock;

/// A line whose server is this node: what its store retains of the service is to be kept by all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retain {
    /// The service.
    pub service: ServiceName,
    /// The server's term: its node is this one.
    pub term: Term,
    /// Where the term branched off.
    pub origin: Option<TermOrigin>,
    /// Losses of nodes that each snapshot is to survive (f).
    pub tolerance: u32,
    /// Nodes that are to hold everything.
    pub warm: Vec<NodeId>,
    /// Heads of other lines that were merged into this one, or released: nobody keeps them for their own sake.
    pub merged: BTreeSet<Held>,
}

impl Owner {
    /// Reads what the store retains of the lines of which that is wanted.
    pub(super) fn look_at_store(&mut self) {
        let retains = std::mem::take(&mut *lock(&self.member.keeping.retains));
        for (line, retain) in retains {
            if self.looking.contains(&line) {
                // It is looked at again when that is done.
                lock(&self.member.keeping.retains).entry(line).or_insert(retain);
                continue;
            }
            self.looking.insert(line);
            let (member, depot) = (self.member.clone(), self.depot.clone());
            let (service, cut) = (retain.service.clone(), self.cut(retain.tolerance));
            let known = self.keeper.catalog(&service).cloned();
            let read = self.member.tasks.blocking(move || {
                let entries = depot.entries(&service, cut, known.as_deref())?;
                let lacking = depot.lacking(&entries);
                Ok::<_, DepotError>((entries, lacking))
            });
            self.member.tasks.spawn(async move {
                let Ok(read) = read.await else { return };
                let listed = read.map_err(|error| {
                    let (service, error) = (&retain.service, error_chain(&error));
                    tracing::warn!(%service, error, "can't read what is to be kept");
                });
                member.keeping.tell(Inlet::Listed { retain, listed: listed.ok() }).await;
            });
        }
    }

    /// How packs are cut that are new; not at all in a small cluster.
    fn cut(&self, tolerance: u32) -> Option<Cut> {
        let code = self.keeper.code(usize::try_from(tolerance).unwrap_or(usize::MAX));
        let (needed, total) = (u8::try_from(code.needed).ok()?, u8::try_from(code.total).ok()?);
        Cut::in_groups(needed, total)
    }

    pub(super) async fn listed(&mut self, retain: Retain, listed: Option<Listed>) {
        self.looking.remove(&(retain.service.clone(), retain.term));
        match listed {
            Some((entries, lacking)) => {
                let line = Line { service: retain.service.clone(), term: retain.term };
                self.lines.insert(line, retain.tolerance);
                let Retain { service, term, origin, tolerance, warm, merged } = retain;
                let tolerance = u8::try_from(tolerance).unwrap_or(u8::MAX);
                let terms = BTreeMap::from([(term, origin)]);
                self.handle(Event::Retained { service, term, tolerance, warm, terms, merged, entries }).await;
                for part in lacking {
                    self.handle(Event::Lost { part }).await;
                }
            }
            None => {
                let member = self.member.clone();
                self.member.tasks.spawn(async move {
                    tokio::time::sleep(limits::KEEP_AGAIN).await;
                    let line = (retain.service.clone(), retain.term);
                    lock(&member.keeping.retains).entry(line).or_insert(retain);
                    member.keeping.retain_news.notify_one();
                });
            }
        }
        self.look_at_store();
    }
}
