//! What a push is in the end, after other processes may have changed what it began from.

use sustain_proto::{Manifest, NodeId, PackId, PackRef, Term, TermOrigin};

use crate::PushError;
use crate::pack_writer::FinishedPack;
use crate::push::Push;

/// Who pushes what is to be the newest snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author {
    pub(crate) node: NodeId,
    pub(crate) nonce: u64,
}

impl Author {
    /// The term of the snapshot that comes after this one, and where it branches off.
    pub(crate) fn continues(self, newest: &Manifest) -> (Term, Option<TermOrigin>) {
        let Self { node, nonce } = self;
        if newest.term.node == node {
            return (newest.term, newest.origin);
        }
        let origin = TermOrigin { parent: newest.term, seq: newest.seq };
        (Term { counter: newest.term.counter.saturating_add(1), node, nonce }, Some(origin))
    }
}

impl Push {
    /// Gives the snapshot its place behind what is the newest one now, if it was to be there. The caller holds the
    /// commit lock.
    pub(crate) fn settle(&self, manifest: &mut Manifest) -> Result<(), PushError> {
        let overtaken = || PushError::Overtaken { service: self.service.clone() };
        let state = self.shared.state();
        if manifest.base().is_some_and(|base| !state.snapshots.contains_key(&base)) {
            return Err(overtaken());
        }
        let Some(author) = self.follows_newest else { return Ok(()) };
        let newest = state.all_of_service(&self.service).pop();
        if newest.as_ref().map(|newest| newest.id) == self.parents.first().copied() {
            return Ok(());
        }
        if self.relies_on_parent {
            return Err(overtaken());
        }
        // With nothing left to continue it would have a number that was another snapshot's.
        let newest = newest.ok_or_else(overtaken)?;
        manifest.parents = vec![newest.id];
        (manifest.term, manifest.origin) = author.continues(&newest.manifest);
        manifest.seq = self.shared.next_number(&state, &newest.manifest);
        Ok(())
    }

    /// The packs that the snapshot lists besides its own and that another process has dropped meanwhile: they are
    /// pinned, so their files are here, and they count again. The caller holds the commit lock.
    pub(crate) fn still_here(
        &self,
        manifest: &Manifest,
        own: &[FinishedPack],
    ) -> Result<Vec<PackRef>, PushError> {
        let state = self.shared.state();
        let is_own = |id: &PackId| own.iter().any(|pack| pack.reference.id == *id);
        let mut dropped: Vec<PackRef> = manifest.packs.clone();
        dropped.retain(|pack| !state.packs.contains_key(&pack.id) && !is_own(&pack.id));
        for pack in &dropped {
            let stamp = self.shared.disk.stamp(&self.shared.layout.pack(&pack.id));
            if !stamp.is_ok_and(|stamp| stamp.bytes == pack.bytes) {
                return Err(PushError::Overtaken { service: self.service.clone() });
            }
        }
        Ok(dropped)
    }
}
