//! A push's regions: read whole, or only where they changed.

use std::ops::Range;

use sustain_proto::limits::{MANIFEST_PACKS_MAX, REGION_BYTES_MAX};
use sustain_proto::{Region, RegionIndex, RegionName, SnapshotId};

use crate::ingest::{Known, Spans, ingest};
use crate::located::LocatedRegion;
use crate::push::Push;
use crate::{PushError, RegionSource};

impl Push {
    /// Whether the snapshot continues one that is held here, so that [`Push::ingest_changes`] is possible for
    /// that one's regions.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.parent.is_some()
    }

    /// The snapshot that this one continues, by its id at the time of [`Store::begin_push`](crate::Store::begin_push).
    /// None for a service's first one.
    #[must_use]
    pub fn continued(&self) -> Option<SnapshotId> {
        self.parents.first().copied()
    }

    /// Reads, hashes, compresses and writes a region. Packs that are full are synced behind it, for which it waits only
    /// if the disk does not keep up.
    ///
    /// # Errors
    /// If the source can't be read, or the disk is full or fails. The push is then broken.
    pub fn ingest(&mut self, name: &RegionName, source: &dyn RegionSource) -> Result<(), PushError> {
        let region = self.check(name, source)?;
        if self.index.regions.contains_key(name) {
            return Err(PushError::DuplicateRegion { region: name.clone() });
        }
        let ranges = source.data_ranges();
        let ranges = ranges.map_err(|source| PushError::Source { region: name.clone(), source })?;
        let chunks = self.store_chunks(&region, source, &Spans::of(&ranges, region.bytes))?;
        self.index.regions.insert(name.clone(), chunks);
        self.regions.push(region);
        Ok(())
    }

    /// As [`Push::ingest`], but reads only the grid positions that these ranges of bytes touch. All others
    /// stay as an earlier call of this push left them or, if there was none, as the parent has them. May
    /// be called any number of times for a region, and what was read last counts.
    ///
    /// # Errors
    /// As for [`Push::ingest`], and if neither this push nor the parent has a region of this name and size.
    pub fn ingest_changes(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: &[Range<u64>],
    ) -> Result<(), PushError> {
        let region = self.check(name, source)?;
        if !self.index.regions.contains_key(name) {
            let chunks = self.inherited(&region)?;
            self.relies_on_parent = true;
            self.index.regions.insert(name.clone(), chunks);
            self.regions.push(region.clone());
        }
        let spans = Spans::of(changed, region.bytes);
        let found = self.store_chunks(&region, source, &spans)?;
        let chunks = self.index.regions.entry(name.clone()).or_default();
        let mut ranges = spans.ranges().peekable();
        // What is not found again has become zero, which is not listed.
        chunks.retain(|position, _| {
            while ranges.next_if(|range| range.end <= position).is_some() {}
            ranges.peek().is_none_or(|range| position < range.start)
        });
        *chunks = chunks.overlaid_by(&found);
        Ok(())
    }

    /// The chunks that the parent has of a region.
    fn inherited(&self, region: &Region) -> Result<RegionIndex, PushError> {
        let parent = self.parent.as_ref().filter(|parent| parent.regions.contains(region));
        let parent = parent.ok_or_else(|| PushError::NothingToContinue { region: region.name.clone() })?;
        let chunks = parent.located.named(&region.name, &self.catalogue);
        Ok(chunks.map(|(position, chunk)| (position, Some(chunk))).collect())
    }

    fn check(&self, name: &RegionName, source: &dyn RegionSource) -> Result<Region, PushError> {
        if self.broken {
            return Err(PushError::Broken);
        }
        let region = Region { name: name.clone(), bytes: source.bytes() };
        if region.bytes > REGION_BYTES_MAX {
            let (region, bytes, bytes_max) = (region.name, region.bytes, REGION_BYTES_MAX);
            return Err(PushError::RegionTooLarge { region, bytes, bytes_max });
        }
        match self.regions.iter().find(|known| known.name == *name) {
            Some(known) if known.bytes != region.bytes => {
                Err(PushError::DuplicateRegion { region: name.clone() })
            }
            _ => Ok(region),
        }
    }

    fn store_chunks(
        &mut self,
        region: &Region,
        source: &dyn RegionSource,
        spans: &Spans,
    ) -> Result<RegionIndex, PushError> {
        let (shared, catalogue, key) = (&*self.shared, &self.catalogue, &self.key);
        let none = LocatedRegion::default();
        let base = self.parent.as_ref().map(|parent| parent.base_located.region(&region.name));
        let base = base.map(|region| region.unwrap_or(&none));
        let parent = self.parent.as_ref().and_then(|parent| parent.located.region(&region.name));
        let cache = self.cache.as_ref().unwrap_or(&shared.blocks);
        let known = Known { shared, catalogue, cache, key, base, parent, pace: self.pace };
        let output = (&mut self.sink, &mut self.new);
        let stored = ingest(&known, region, source, spans, &mut self.workers, output);
        let stored = stored.and_then(|ingested| {
            if self.sink.finished_count() > MANIFEST_PACKS_MAX {
                return Err(PushError::TooManyPacks { service: self.service.clone() });
            }
            Ok(ingested.chunks)
        });
        self.broken |= stored.is_err();
        stored
    }
}
