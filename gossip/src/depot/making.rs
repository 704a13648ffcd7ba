//! Making parts of others: fragments of the whole pack, and packs or fragments of enough fragments.

use sustain_store::{Pace, StoredSheet};

use super::coming::Kind;
use super::{Depot, DepotError};
use crate::keeper::{Part, Which};
use crate::transport::links::lock;

impl Depot {
    /// Makes a part of others that are all here, synced or not. It is to be synced then.
    pub(crate) fn make(&self, part: &Part, from: &[Part]) -> Result<(), DepotError> {
        let (_, pack) = self
            .known()
            .pack(&part.pack)
            .map(|(service, pack)| (service.clone(), pack))
            .ok_or(DepotError::Unlisted { part: *part })?;
        let sheet = self.sheet(&pack)?.ok_or(DepotError::NoSheet { pack: pack.id })?;
        match part.which {
            Which::Whole => self.make_pack(sheet, from),
            Which::Fragment(index) if from.contains(&pack.whole()) => self.cut(part, sheet, index),
            Which::Fragment(index) => self.make_fragment(part, sheet, index, from),
        }
    }

    fn make_pack(&self, sheet: StoredSheet, from: &[Part]) -> Result<(), DepotError> {
        if self.store.has_pack(&sheet.sheet.pack.id) {
            return Ok(());
        }
        let builder = self.fragments.build_pack(&sheet.sheet)?;
        for part in from {
            if let Some(receiver) = self.coming(part) {
                if let Kind::Fragment(receiver) = &receiver.kind {
                    builder.add_received(receiver)?;
                }
            }
        }
        builder.finish()?;
        Ok(())
    }

    fn cut(&self, part: &Part, sheet: StoredSheet, index: u8) -> Result<(), DepotError> {
        let pack = sheet.sheet.pack;
        let whole = Part { pack: pack.id, which: Which::Whole };
        if let Some(receiver) = self.coming(&whole).filter(|_| !self.store.has_pack(&pack.id)) {
            if let Kind::Pack(receiver) = &receiver.kind {
                // It has come, and was not synced yet, which it is going to be.
                self.store.keep_received(std::slice::from_ref(receiver))?;
            }
        }
        let mut bytes = Vec::with_capacity(sheet.sheet.cut.fragment_bytes(pack.bytes) as usize);
        self.store.make_fragments(&sheet.sheet, &[index], Pace::Behind, &mut |_, made| {
            bytes.extend_from_slice(made);
            Ok(())
        })?;
        let appended = self.fragments.put(&sheet, index, &bytes)?;
        lock(&self.appended).insert(*part, appended);
        Ok(())
    }

    fn make_fragment(
        &self,
        part: &Part,
        sheet: StoredSheet,
        index: u8,
        from: &[Part],
    ) -> Result<(), DepotError> {
        let builder = self.fragments.build_fragment(sheet, index)?;
        for part in from {
            if let Some(receiver) = self.coming(part) {
                if let Kind::Fragment(receiver) = &receiver.kind {
                    builder.add_received(receiver)?;
                }
            }
        }
        let appended = builder.finish()?;
        lock(&self.appended).insert(*part, appended);
        Ok(())
    }
}
