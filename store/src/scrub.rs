//! Scrubbing: packs are compared with their ids, one after the other, and damaged ones are set aside at once. Nothing
//! is kept from being dropped meanwhile but the pack that is being read, so it may go on for days.

use sustain_proto::PackId;

use crate::pack_file::PackFile;
use crate::parallel::for_each_batch;
use crate::state::State;
use crate::verify::VerifyError;
use crate::verify_run::Run;
use crate::{Fault, limits};

impl Run<'_> {
    pub(crate) fn hashes(&self) -> Result<(), VerifyError> {
        let make = || Ok::<_, VerifyError>(Vec::with_capacity(limits::PACK_BUFFER_BYTES));
        let count = self.order.len() as u64;
        for_each_batch(self.options.pace, count, 1, make, |scratch, range| {
            let id = self.order[range.start as usize].0;
            self.hash(&id, scratch)
        })?;
        Ok(())
    }

    fn hash(&self, id: &PackId, scratch: &mut Vec<u8>) -> Result<(), VerifyError> {
        let look = |state: &State| {
            let is_here = state.packs.contains_key(id);
            Ok::<_, Fault>((is_here, vec![*id.as_bytes()]))
        };
        let (is_here, _pin) = self.shared.pinned(look)?;
        // It was dropped since. One that was bad before this run is read all the same.
        if self.state.packs.contains_key(id) && !is_here {
            return Ok(());
        }
        let read = PackFile::open(self.shared.disk.as_ref(), &self.shared.layout, id)
            .map_err(VerifyError::from)
            .and_then(|file| file.check_hash(*id, scratch, |part| self.done(part)));
        match read {
            Ok(()) => {
                self.good(*id, false);
                Ok(())
            }
            Err(VerifyError::Fault(fault)) if fault.is_unreadable() => self.found_bad(id, fault),
            other => other,
        }
    }

    fn found_bad(&self, id: &PackId, fault: Fault) -> Result<(), VerifyError> {
        if self.options.set_aside && self.shared.state().packs.contains_key(id) {
            self.set_aside(id);
        }
        self.judge(fault)
    }
}
