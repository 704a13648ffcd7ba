//! Parts on their way in, group by group, in any order and from any number of peers at once. What came survives the
//! process: who receives the part again goes on from there.

use std::ops::Range;
use std::sync::Arc;

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{GroupList, GroupValue, PackRef, group_count};
use sustain_store::{FragmentReceiver, GroupReceiver, Received};

use super::{Depot, DepotError};
use crate::keeper::{Pack, Part, Which};
use crate::limits;
use crate::transport::links::lock;

/// What is sent ahead of the bytes of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartList {
    /// The values of its groups; none are needed where it has at most one.
    pub(crate) values: Vec<GroupValue>,
    /// The encoded sheet of its pack, if that is cut and the sheet is here.
    pub(crate) sheet: Option<Vec<u8>>,
}

/// A part that is on its way in. Usable from several threads.
pub(crate) struct PartReceiver {
    part: Part,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Pack(Arc<GroupReceiver>),
    Fragment(FragmentReceiver),
    /// It is here already, with so many groups.
    Here(usize),
}

impl PartReceiver {
    /// Whether each group is here.
    pub(crate) fn here(&self) -> Vec<bool> {
        match &self.kind {
            Kind::Pack(receiver) => receiver.here(),
            Kind::Fragment(receiver) => receiver.here(),
            Kind::Here(groups) => vec![true; *groups],
        }
    }

    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        match &self.kind {
            Kind::Pack(receiver) => receiver.is_whole(),
            Kind::Fragment(receiver) => receiver.is_whole(),
            Kind::Here(_) => true,
        }
    }

    /// Takes a group, if its bytes are the right ones.
    pub(crate) fn write(&self, group: usize, bytes: &[u8]) -> Result<Received, DepotError> {
        match &self.kind {
            Kind::Pack(receiver) => Ok(receiver.write(group, bytes)?),
            Kind::Fragment(receiver) => Ok(receiver.write(group, bytes)?),
            Kind::Here(_) => Ok(Received::Known),
        }
    }

    pub(super) fn list(&self) -> Option<&GroupList> {
        match &self.kind {
            Kind::Pack(receiver) => Some(receiver.list()),
            Kind::Fragment(receiver) => Some(receiver.list()),
            Kind::Here(_) => None,
        }
    }

    /// Whether all groups that a range touches are here.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        let groups = (range.start / GROUP_BYTES) as usize..range.end.div_ceil(GROUP_BYTES) as usize;
        self.here().get(groups).is_some_and(|here| here.iter().all(|here| *here))
    }

    /// Fills the buffer from this offset, if all groups that it touches are here. Whether they are.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DepotError> {
        match &self.kind {
            Kind::Pack(receiver) => Ok(receiver.read_at(offset, buf)?),
            Kind::Fragment(receiver) => Ok(receiver.read_at(offset, buf)?),
            Kind::Here(_) => Ok(false),
        }
    }

    pub(super) fn discard(&self) {
        match &self.kind {
            Kind::Pack(receiver) => receiver.discard(),
            Kind::Fragment(receiver) => receiver.discard(),
            Kind::Here(_) => {}
        }
    }
}

impl Depot {
    /// Begins to receive a part of a pack that a catalog lists, or goes on where somebody has stopped, be it an earlier
    /// process. Who receives it at the same time gets the same receiver.
    pub(crate) fn receive(
        &self,
        pack: &Pack,
        part: &Part,
        list: PartList,
    ) -> Result<Arc<PartReceiver>, DepotError> {
        if let Some(receiver) = self.coming(part) {
            return Ok(receiver);
        }
        self.no_longer_dropped(&pack.id);
        let kind = match part.which {
            Which::Whole => self.receive_whole(pack, part, list)?,
            Which::Fragment(index) => self.receive_fragment(pack, part, index, list)?,
        };
        let receiver = Arc::new(PartReceiver { part: *part, kind });
        if matches!(receiver.kind, Kind::Here(_)) {
            return Ok(receiver);
        }
        let mut coming = lock(&self.coming);
        let count = coming.len();
        if count >= limits::PARTS_COMING_MAX && !coming.contains_key(part) {
            return Err(DepotError::TooMany { count });
        }
        Ok(coming.entry(receiver.part).or_insert(receiver).clone())
    }

    pub(super) fn coming(&self, part: &Part) -> Option<Arc<PartReceiver>> {
        lock(&self.coming).get(part).cloned()
    }

    fn receive_whole(&self, pack: &Pack, part: &Part, list: PartList) -> Result<Kind, DepotError> {
        if let Some(sheet) = list.sheet.filter(|_| pack.cut.is_some()) {
            let sheet = self.check_sheet(pack, sheet)?;
            self.note_sheet(pack, sheet);
        }
        let values = checked(part, *pack.id.as_bytes(), pack.bytes, list.values)?;
        if self.store.pack_bytes(&pack.id) == Some(pack.bytes) {
            return Ok(Kind::Here(group_count(pack.bytes)));
        }
        let reference = PackRef { id: pack.id, bytes: pack.bytes };
        Ok(Kind::Pack(self.store.receive_groups(reference, values)?))
    }

    fn receive_fragment(
        &self,
        pack: &Pack,
        part: &Part,
        index: u8,
        list: PartList,
    ) -> Result<Kind, DepotError> {
        let cut = pack.cut.ok_or(DepotError::Unlisted { part: *part })?;
        let sheet = match list.sheet {
            Some(sheet) => self.check_sheet(pack, sheet)?,
            None => self.sheet(pack)?.ok_or(DepotError::NoSheet { pack: pack.id })?,
        };
        let id = sheet.sheet.fragments.get(usize::from(index));
        let id = *id.ok_or(DepotError::Unlisted { part: *part })?;
        let values = checked(part, *id.as_bytes(), cut.fragment_bytes(pack.bytes), list.values)?;
        if self.held(&sheet.sheet.service, pack, cut).any(|held| held == index) {
            return Ok(Kind::Here(values.count()));
        }
        self.note_sheet(pack, sheet.clone());
        Ok(Kind::Fragment(self.fragments.receive(sheet, index, values)?))
    }
}

fn checked(
    part: &Part,
    root: [u8; 32],
    bytes: u64,
    values: Vec<GroupValue>,
) -> Result<GroupList, DepotError> {
    GroupList::check(root, bytes, values).map_err(|source| DepotError::List { part: *part, source })
}
