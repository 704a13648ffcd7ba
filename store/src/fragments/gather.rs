//! What packs and other fragments are made of: fragments of one pack that are held, and ranges of others as they come.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sustain_proto::{GroupList, Sheet};

use super::incoming::Part;
use super::reader::FragmentReader;
use super::{FragmentError, FragmentReceiver, Inner};
use crate::Received;
use crate::coding::{Code, Recipe};

enum Source {
    Held(FragmentReader),
    Coming(Part),
    /// Somebody receives it by itself.
    Received(Arc<Part>),
}

impl Source {
    fn has(&self, range: &Range<u64>) -> bool {
        match self {
            Self::Held(_) => true,
            Self::Coming(part) => part.has(range),
            Self::Received(part) => part.has(range),
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), FragmentError> {
        match self {
            Self::Held(reader) => reader.read_at(offset, buf),
            Self::Coming(part) => Ok(part.read_at(offset, buf)?),
            Self::Received(part) => Ok(part.read_at(offset, buf)?),
        }
    }
}

/// The sources, by the numbers of their fragments.
pub(super) struct Gather {
    pub(super) inner: Arc<Inner>,
    pub(super) sheet: Sheet,
    code: Arc<Code>,
    sources: Mutex<BTreeMap<u8, Arc<Source>>>,
}

/// What decoding keeps from one extent to the next.
#[derive(Default)]
pub(super) struct Scratch {
    recipe: Option<Recipe>,
    inputs: Vec<u8>,
    /// What was made, one wanted fragment's part after the other.
    pub(super) made: Vec<u8>,
}

impl Gather {
    pub(super) fn new(inner: &Arc<Inner>, sheet: &Sheet) -> Result<Self, FragmentError> {
        inner.must_keep()?;
        sheet.check()?;
        let code = inner.shared.codes.of(&sheet.cut);
        Ok(Self { inner: inner.clone(), sheet: sheet.clone(), code, sources: Mutex::default() })
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<u8, Arc<Source>>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a fragment that is held.
    pub(super) fn add_held(&self, index: u8) -> Result<(), FragmentError> {
        let total = self.sheet.cut.total;
        let id =
            self.sheet.fragments.get(usize::from(index)).ok_or(FragmentError::NoIndex { index, total })?;
        let reader = super::Fragments(self.inner.clone()).open(id)?;
        self.sources().insert(index, Arc::new(Source::Held(reader)));
        Ok(())
    }

    /// Adds a fragment whose groups come one by one. Whether each has come before.
    pub(super) fn add_coming(&self, index: u8, list: GroupList) -> Result<Vec<bool>, FragmentError> {
        let total = self.sheet.cut.total;
        let id =
            *self.sheet.fragments.get(usize::from(index)).ok_or(FragmentError::NoIndex { index, total })?;
        if list.root() != id.as_bytes()
            || list.bytes() != self.sheet.cut.fragment_bytes(self.sheet.pack.bytes)
        {
            return Err(FragmentError::Wrong { id });
        }
        if let Some(Source::Coming(part)) = self.sources().get(&index).map(Arc::as_ref) {
            // Another peer goes on with it.
            return Ok(part.here());
        }
        let part = Part::open(&self.inner, &self.sheet.service, id, list)?;
        let here = part.here();
        self.sources().insert(index, Arc::new(Source::Coming(part)));
        Ok(here)
    }

    /// Adds a fragment that somebody receives by itself, as far as it has come.
    pub(super) fn add_received(&self, receiver: &FragmentReceiver) -> Result<(), FragmentError> {
        let index = receiver.index();
        if self.sheet.fragments.get(usize::from(index)) != Some(&receiver.part.id()) {
            return Err(FragmentError::Wrong { id: receiver.part.id() });
        }
        self.sources().insert(index, Arc::new(Source::Received(receiver.part.clone())));
        Ok(())
    }

    pub(super) fn write(&self, index: u8, group: usize, bytes: &[u8]) -> Result<Received, FragmentError> {
        let source = self.sources().get(&index).cloned();
        match source.as_deref() {
            Some(Source::Coming(part)) => part.write(group, bytes),
            Some(Source::Received(part)) => part.write(group, bytes),
            Some(Source::Held(_)) => Ok(Received::Known),
            None => Err(FragmentError::NoIndex { index, total: self.sheet.cut.total }),
        }
    }

    /// How many extents the pack has.
    pub(super) fn extents(&self) -> u64 {
        self.sheet.pack.bytes.div_ceil(u64::from(self.sheet.cut.extent_bytes))
    }

    /// The bytes of the pack in an extent.
    pub(super) fn extent_bytes(&self, extent: u64) -> u64 {
        let full = u64::from(self.sheet.cut.extent_bytes);
        self.sheet.pack.bytes.saturating_sub(extent * full).min(full)
    }

    /// Makes the parts of an extent's fragments that are wanted, if enough others have come. Whether they have.
    pub(super) fn make(
        &self,
        extent: u64,
        wanted: &[u8],
        scratch: &mut Scratch,
    ) -> Result<bool, FragmentError> {
        let cut = &self.sheet.cut;
        let start = extent * cut.shard_bytes(u64::from(cut.extent_bytes));
        let shard = cut.shard_bytes(self.extent_bytes(extent));
        let range = start..start + shard;
        let needed = usize::from(cut.needed);
        let ready: Vec<(u8, Arc<Source>)> = {
            let sources = self.sources();
            let ready = sources.iter().filter(|(_, source)| source.has(&range));
            // The first ones are the pack itself, which need not be decoded.
            ready.take(needed).map(|(index, source)| (*index, source.clone())).collect()
        };
        if ready.len() < needed {
            return Ok(false);
        }
        let have: Vec<u8> = ready.iter().map(|(index, _)| *index).collect();
        let recipe = match &mut scratch.recipe {
            Some(recipe) if recipe.have() == have => recipe,
            other => other.insert(self.code.recipe(&have, wanted)?),
        };
        let shard = shard as usize;
        scratch.inputs.resize(shard * needed, 0);
        for ((index, source), input) in ready.iter().zip(scratch.inputs.chunks_exact_mut(shard)) {
            if let Err(error) = source.read_at(start, input) {
                // Another one may make up for it.
                self.sources().remove(index);
                tracing::debug!(%error, index, "a fragment can't be read, and is left out");
                return self.make(extent, wanted, scratch);
            }
        }
        scratch.made.resize(shard * wanted.len(), 0);
        let inputs: Vec<&[u8]> = scratch.inputs.chunks_exact(shard).collect();
        let mut outputs: Vec<&mut [u8]> = scratch.made.chunks_exact_mut(shard).collect();
        recipe.apply(&inputs, &mut outputs)?;
        Ok(true)
    }

    /// Removes the files of what came: it is of use no more.
    pub(super) fn remove_parts(&self) {
        let sources = std::mem::take(&mut *self.sources());
        for source in sources.into_values() {
            if let Source::Coming(part) = &*source {
                part.remove();
            }
        }
    }
}
