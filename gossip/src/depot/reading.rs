//! Giving parts away: what is here, and what is still coming, as far as it has come.

use std::ops::Range;
use std::sync::Arc;

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{GroupList, GroupValue};
use sustain_store::error_chain;

use super::coming::PartList;
use super::{Depot, DepotError};
use crate::keeper::{Pack, Part, Which};
use crate::limits;

/// Takes bytes as they are read. False if no more are wanted.
pub(crate) type Sink<'a> = dyn FnMut(Vec<u8>) -> bool + 'a;

/// Fills a buffer from an offset.
type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), DepotError> + 'a;

impl Depot {
    /// The values of the groups of a part that is here or is coming, and the sheet of its pack. None if neither is, or
    /// it is found to be damaged.
    pub(crate) fn list(&self, part: &Part, pack: &Pack) -> Result<Option<PartList>, DepotError> {
        let values = match self.lists.get(part) {
            Some(values) => values,
            None => match self.make_list(part, pack)? {
                Some(values) => {
                    let values = Arc::new(values);
                    self.lists.put(*part, values.clone());
                    values
                }
                None => return Ok(None),
            },
        };
        let sheet = if pack.cut.is_some() { self.sheet(pack)? } else { None };
        Ok(Some(PartList { values: values.to_vec(), sheet: sheet.map(|sheet| sheet.bytes) }))
    }

    fn make_list(&self, part: &Part, pack: &Pack) -> Result<Option<Vec<GroupValue>>, DepotError> {
        if let Some(receiver) = self.coming(part) {
            return Ok(receiver.list().map(|list| list.values().to_vec()));
        }
        match part.which {
            Which::Whole if self.store.has_pack(&pack.id) => {
                let values = self.store.pack_groups(pack.id)?;
                if GroupList::check(*pack.id.as_bytes(), pack.bytes, values.clone()).is_ok() {
                    return Ok(Some(values));
                }
                self.damaged(part)?;
                Ok(None)
            }
            Which::Whole => Ok(None),
            Which::Fragment(index) => {
                let Some(sheet) = self.sheet(pack)? else { return Ok(None) };
                let Some(id) = sheet.sheet.fragments.get(usize::from(index)) else { return Ok(None) };
                if let Ok(reader) = self.fragments.open(id) {
                    return Ok(Some(reader.groups().values().to_vec()));
                }
                let Some(cut) = pack.cut.filter(|_| self.store.has_pack(&pack.id)) else { return Ok(None) };
                let list = self.store.open_cut(pack.id, cut, index)?.groups()?;
                if list.root() == id.as_bytes() {
                    return Ok(Some(list.values().to_vec()));
                }
                self.damaged(&pack.whole())?;
                Ok(None)
            }
        }
    }

    /// A pack's file is not what its name says: it is set aside, and counts as not here.
    fn damaged(&self, part: &Part) -> Result<(), DepotError> {
        self.lists.forget(part);
        self.store.set_aside_if_damaged(part.pack)?;
        Ok(())
    }

    /// Reads a range of a part. [`DepotError::NotHere`] if not all of it is here.
    pub(crate) fn read(
        &self,
        part: &Part,
        pack: &Pack,
        range: Range<u64>,
        sink: &mut Sink<'_>,
    ) -> Result<(), DepotError> {
        let not_here = || DepotError::NotHere { part: *part };
        if range.end > pack.part_bytes(part.which) {
            return Err(not_here());
        }
        if let Some(receiver) = self.coming(part).filter(|receiver| receiver.has(&range)) {
            return pump(range, sink, &|at, buffer| {
                if receiver.read_at(at, buffer)? { Ok(()) } else { Err(not_here()) }
            });
        }
        match part.which {
            Which::Whole => self.read_whole(part, pack, range, sink),
            Which::Fragment(index) => {
                let sheet = self.sheet(pack)?.ok_or_else(not_here)?;
                let id = sheet.sheet.fragments.get(usize::from(index)).ok_or_else(not_here)?;
                if let Ok(reader) = self.fragments.open(id) {
                    return pump(range, sink, &|at, buffer| Ok(reader.read_at(at, buffer)?));
                }
                let cut = pack.cut.filter(|_| self.store.has_pack(&pack.id)).ok_or_else(not_here)?;
                let reader = self.store.open_cut(pack.id, cut, index)?;
                pump(range, sink, &|at, buffer| Ok(reader.read_at(at, buffer)?))
            }
        }
    }

    /// Reads a pack's file. Groups whose values are known are compared with them, so that a damaged disk is found here
    /// and not by others, to whom it would look like a lie.
    fn read_whole(
        &self,
        part: &Part,
        pack: &Pack,
        range: Range<u64>,
        sink: &mut Sink<'_>,
    ) -> Result<(), DepotError> {
        if !self.store.has_pack(&pack.id) {
            return Err(DepotError::NotHere { part: *part });
        }
        let reader = self.store.read_pack(pack.id)?;
        let list = self
            .lists
            .get(part)
            .and_then(|values| GroupList::check(*pack.id.as_bytes(), pack.bytes, values.to_vec()).ok());
        let outcome = pump(range, sink, &|at, buffer| {
            reader.read_at(at, buffer)?;
            let is_good = list.as_ref().is_none_or(|list| are_groups(list, at, buffer));
            if is_good { Ok(()) } else { Err(DepotError::Damaged { part: *part }) }
        });
        if let Err(DepotError::Damaged { .. }) = &outcome {
            if let Err(error) = self.damaged(part) {
                let error = error_chain(&error);
                tracing::warn!(pack = %pack.id, error, "a damaged pack can't be set aside");
            }
        }
        outcome
    }
}

/// Whether those groups that lie wholly in these bytes are what the list says.
fn are_groups(list: &GroupList, offset: u64, bytes: &[u8]) -> bool {
    let end = offset + bytes.len() as u64;
    let first = offset.div_ceil(GROUP_BYTES) as usize;
    (first..list.count())
        .map(|group| (group, list.range(group)))
        .take_while(|(_, range)| range.end <= end)
        .all(|(group, range)| {
            let part = (range.start - offset) as usize..(range.end - offset) as usize;
            bytes.get(part).is_some_and(|bytes| list.verify(group, bytes))
        })
}

fn pump(range: Range<u64>, sink: &mut Sink<'_>, read: &ReadAt<'_>) -> Result<(), DepotError> {
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(limits::PACK_BUFFER_BYTES)];
        read(at, &mut buffer)?;
        at += buffer.len() as u64;
        if !sink(buffer) {
            break;
        }
    }
    Ok(())
}
