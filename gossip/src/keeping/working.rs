//! Work with the disk: what is begun, and what comes of it.

use sustain_proto::SnapshotId;
use sustain_store::error_chain;

use super::owner::Owner;
use super::works::Start;
use super::{Inlet, Worked};
use crate::depot::{DepotError, SyncReport};
use crate::keeper::{Event, Part};
use crate::limits;

impl Owner {
    /// Begins what may be done with the disk now.
    pub(super) fn begin_works(&mut self) {
        for start in self.works.begin() {
            let (member, depot) = (self.member.clone(), self.depot.clone());
            let pack = |part: &Part| self.keeper.pack(&part.pack);
            let work: Box<dyn FnOnce() -> Worked + Send> = match start {
                Start::Sync(asked) => Box::new(move || {
                    let report = depot.sync(&asked);
                    Worked::Synced { asked, report }
                }),
                Start::Make(part, from) => Box::new(move || {
                    let made = depot.make(&part, &from);
                    Worked::Made(part, made)
                }),
                Start::Open(part, (list, answer)) => {
                    let pack = pack(&part);
                    Box::new(move || {
                        let opened = match pack {
                            Some(pack) => depot.receive(&pack, &part, list),
                            None => Err(DepotError::Unlisted { part }),
                        };
                        Worked::Opened(part, opened, answer)
                    })
                }
                Start::Drop(parts) => Box::new(move || {
                    if let Err(error) = depot.drop_parts(&parts) {
                        tracing::warn!(error = error_chain(&error), "what is not needed stays for now");
                    }
                    Worked::Dropped(parts)
                }),
            };
            let done = self.member.tasks.blocking(work);
            self.member.tasks.spawn(async move {
                if let Ok(worked) = done.await {
                    member.keeping.tell(Inlet::Worked(worked)).await;
                }
            });
        }
    }

    pub(super) async fn worked(&mut self, worked: Worked) {
        match worked {
            Worked::Synced { asked, report } => {
                self.works.synced(&asked);
                self.synced(report).await;
            }
            Worked::Looked { lost, report } => {
                self.is_looking_at_kept = false;
                self.synced(report).await;
                for part in lost {
                    self.handle(Event::Lost { part }).await;
                }
            }
            Worked::Made(part, made) => {
                self.works.done(&part);
                let event = match made {
                    Ok(()) => Event::Made { part },
                    Err(error) => {
                        let (pack, error) = (part.pack.short(), error_chain(&error));
                        tracing::warn!(%pack, error, "a part could not be made");
                        Event::NotMade { part }
                    }
                };
                self.handle(event).await;
            }
            Worked::Dropped(parts) => parts.iter().for_each(|part| self.works.done(part)),
            Worked::Opened(part, opened, answer) => {
                self.works.done(&part);
                if let Ok(receiver) = &opened {
                    self.receivers.insert(part, receiver.clone());
                }
                // It fails where it is not wanted any more.
                let _ = answer.send(opened);
            }
        }
        self.begin_works();
    }

    async fn synced(&mut self, report: SyncReport) {
        self.tell_imported(report.imported);
        for (part, outcome) in report.parts {
            self.receivers.remove(&part);
            match outcome {
                Ok(()) => self.handle(Event::Synced { part }).await,
                Err(error) => {
                    let (is_lasting, pack) = (error.is_lasting(), part.pack.short());
                    let error = error_chain(&error);
                    tracing::warn!(%pack, error, "a part could not be kept");
                    if is_lasting {
                        continue;
                    }
                    // Not at once: where the disk is full it would come again and again.
                    let member = self.member.clone();
                    self.member.tasks.spawn(async move {
                        tokio::time::sleep(limits::KEEP_AGAIN).await;
                        member.keeping.tell(Inlet::Event(Event::Lost { part })).await;
                    });
                }
            }
        }
    }

    /// Looks for parts that are here no more, and tries again what could not be imported before.
    pub(super) fn look_at_kept(&mut self) {
        if std::mem::replace(&mut self.is_looking_at_kept, true) {
            return;
        }
        let (member, depot) = (self.member.clone(), self.depot.clone());
        let looked = self.member.tasks.blocking(move || {
            let lost = depot.lost();
            Worked::Looked { lost, report: depot.sync(&[]) }
        });
        self.member.tasks.spawn(async move {
            if let Ok(worked) = looked.await {
                member.keeping.tell(Inlet::Worked(worked)).await;
            }
        });
    }

    pub(super) fn tell_imported(&self, snapshots: Vec<SnapshotId>) {
        if !snapshots.is_empty() {
            self.member.handler.imported(snapshots);
        }
    }
}
