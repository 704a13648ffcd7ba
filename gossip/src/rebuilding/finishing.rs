//! The end of a pack that is rebuilt: of enough fragments it is made, and what was still on its way for it is not
//! needed.

use sustain_proto::PackId;
use sustain_store::{FragmentError, error_chain};

use super::Rebuilding;
use super::round::Told;
use crate::error::GatherError;

impl Rebuilding<'_> {
    pub(super) fn finish_if_whole(&mut self, pack: PackId) {
        let Some(work) = self.works.get_mut(&pack) else { return };
        if work.is_finishing || work.done.len() < work.needed {
            return;
        }
        work.is_finishing = true;
        let (making, told) = (work.making.clone(), self.told.clone());
        drop(self.member.tasks.blocking(move || {
            let outcome = making.builder.finish().map(|_| ());
            let _ = told.blocking_send(Told::Made(pack, outcome));
        }));
    }

    pub(super) fn made(
        &mut self,
        pack: PackId,
        outcome: Result<(), FragmentError>,
    ) -> Result<(), GatherError> {
        match outcome {
            Ok(()) => {
                let Some(work) = self.works.remove(&pack) else { return Ok(()) };
                self.report.packs_fetched += 1;
                self.report.packs_rebuilt += 1;
                self.progress.advance(work.making.sheet.pack.bytes);
            }
            // One that was held could not be read: others make up for it.
            Err(FragmentError::Incomplete { .. }) => {
                let Some(work) = self.works.get_mut(&pack) else { return Ok(()) };
                work.is_finishing = false;
                work.needed += 1;
            }
            Err(error) if error.kind() == sustain_store::ErrorKind::Corrupt => {
                let Some(work) = self.works.remove(&pack) else { return Ok(()) };
                let error = error_chain(&error);
                tracing::warn!(%pack, error, "a sheet names fragments that make another pack");
                for peer in work.holders.values().flatten() {
                    self.lanes.lied(*peer);
                }
                self.false_sheets.push((work.making.sheet.pack, work.check));
            }
            Err(error) => return Err(self.store_failure(error)),
        }
        self.abandon_unneeded();
        Ok(())
    }

    /// Ends rounds of which nothing is needed any more.
    fn abandon_unneeded(&mut self) {
        let unneeded: Vec<u64> = self
            .rounds
            .iter()
            .filter(|(_, placed)| placed.jobs.iter().all(|(pack, _)| !self.works.contains_key(pack)))
            .map(|(round, _)| *round)
            .collect();
        for round in unneeded {
            if let Some(placed) = self.rounds.remove(&round) {
                placed.task.abort();
                self.lanes.released(placed.peer, placed.bytes.saturating_sub(placed.came));
                let now_ms = self.now_ms();
                self.lanes.measured(placed.peer, placed.came, now_ms - placed.begun_ms);
            }
        }
    }
}
