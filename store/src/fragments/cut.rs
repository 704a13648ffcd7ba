//! Cutting: fragments are made of a pack that is here, window by window, on all cores. Never is more of the pack in
//! memory than a window and what is made of it.

use std::sync::{Mutex, PoisonError};

use sustain_proto::{Cut, FragmentId, GroupHasher, PackId, PackRef, ServiceName, Sheet};

use super::{FragmentError, StoredSheet};
use crate::coding::Recipe;
use crate::parallel::for_each_batch;
use crate::store::Store;
use crate::{CodingError, Pace, PackReader, limits};

/// Takes the bytes of fragments as they are made: of each fragment, given by its number, the next ones.
pub type FragmentSink<'a> = dyn FnMut(u8, &[u8]) -> Result<(), FragmentError> + 'a;

/// A part of the fragments of a pack that a worker makes, which nobody else touches.
struct Lane {
    recipe: Recipe,
    numbers: Vec<u8>,
    hashers: Vec<GroupHasher>,
    /// What was made of the window, for each number.
    made: Vec<Vec<u8>>,
}

/// The extents of a pack that are coded at a time, each padded to shards of equal size.
struct Window {
    bytes: Vec<u8>,
    /// Of each extent: its place in `bytes`, its bytes, and those of a shard.
    extents: Vec<(usize, usize, usize)>,
}

impl Store {
    /// Cuts a pack that is here: gives those fragments that are wanted to the sink, and returns the sheet that names
    /// all. The pack is compared with its id on the way.
    ///
    /// # Errors
    /// If the pack is not here, is damaged (which sets it aside), or the sink fails.
    pub fn cut_pack(
        &self,
        service: &ServiceName,
        pack: PackId,
        cut: Cut,
        wanted: &[u8],
        pace: Pace,
        sink: &mut FragmentSink<'_>,
    ) -> Result<Sheet, FragmentError> {
        cut.check()?;
        let reader = self.read_pack(pack)?;
        let all: Vec<u8> = (0..cut.total).collect();
        let pack = PackRef { id: pack, bytes: reader.len() };
        let mut hasher = blake3::Hasher::new();
        let roots = self.make(&reader, &cut, (&all, wanted), pace, Some(&mut hasher), sink)?;
        if PackId::from_bytes(*hasher.finalize().as_bytes()) != pack.id {
            self.set_aside_if_damaged(pack.id)?;
            return Err(FragmentError::Contradiction { pack: pack.id });
        }
        let fragments = roots.into_iter().map(FragmentId::from_bytes).collect();
        Ok(Sheet { service: service.clone(), pack, cut, fragments })
    }

    /// Makes some fragments of a pack that is here, whose sheet is known, and gives their bytes to the sink. They are
    /// compared with the sheet when all have come.
    ///
    /// # Errors
    /// If the pack is not here, what is made is not what the sheet names, or the sink fails.
    pub fn make_fragments(
        &self,
        sheet: &Sheet,
        wanted: &[u8],
        pace: Pace,
        sink: &mut FragmentSink<'_>,
    ) -> Result<(), FragmentError> {
        sheet.check()?;
        let reader = self.read_pack(sheet.pack.id)?;
        let contradiction = FragmentError::Contradiction { pack: sheet.pack.id };
        if reader.len() != sheet.pack.bytes {
            return Err(contradiction);
        }
        let roots = self.make(&reader, &sheet.cut, (wanted, wanted), pace, None, sink)?;
        let is_named = |(number, root): (&u8, &[u8; 32])| {
            sheet.fragments.get(usize::from(*number)).is_some_and(|id| id.as_bytes() == root)
        };
        if wanted.iter().zip(&roots).all(is_named) {
            return Ok(());
        }
        // One of the two is wrong.
        self.set_aside_if_damaged(sheet.pack.id)?;
        Err(contradiction)
    }

    /// Makes these fragments, of which some are given to the sink, and returns their hashes.
    fn make(
        &self,
        reader: &PackReader,
        cut: &Cut,
        (numbers, wanted): (&[u8], &[u8]),
        pace: Pace,
        mut hasher: Option<&mut blake3::Hasher>,
        sink: &mut FragmentSink<'_>,
    ) -> Result<Vec<[u8; 32]>, FragmentError> {
        let code = self.shared.codes.of(cut);
        let shards: Vec<u8> = (0..cut.needed).collect();
        let mut lanes = Vec::new();
        for numbers in numbers.chunks(limits::CODED_TOGETHER) {
            lanes.push(Mutex::new(Lane {
                recipe: code.recipe(&shards, numbers)?,
                numbers: numbers.to_vec(),
                hashers: vec![GroupHasher::default(); numbers.len()],
                made: vec![Vec::new(); numbers.len()],
            }));
        }
        let mut window = Window { bytes: Vec::new(), extents: Vec::new() };
        let mut at = 0;
        while at < reader.len() {
            at = window.read(reader, cut, at)?;
            let hasher = hasher.as_deref_mut().map(Mutex::new);
            // The pack's own hash is the first of what there is to do.
            let jobs = lanes.len() as u64 + 1;
            for_each_batch(
                pace,
                jobs,
                1,
                || Ok(()),
                |(), range| match range.start.checked_sub(1) {
                    None => {
                        if let Some(hasher) = &hasher {
                            window.hash(&mut hasher.lock().unwrap_or_else(PoisonError::into_inner));
                        }
                        Ok::<_, CodingError>(())
                    }
                    Some(lane) => {
                        let lane = &lanes[lane as usize];
                        lane.lock().unwrap_or_else(PoisonError::into_inner).make(&window, cut.needed)
                    }
                },
            )?;
            for lane in &lanes {
                let lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
                for (number, made) in lane.numbers.iter().zip(&lane.made) {
                    if wanted.contains(number) {
                        sink(*number, made)?;
                    }
                }
            }
        }
        let finish = |lane: Mutex<Lane>| {
            let hashers = lane.into_inner().unwrap_or_else(PoisonError::into_inner).hashers;
            hashers.into_iter().map(|hasher| *hasher.finish().root())
        };
        Ok(lanes.into_iter().flat_map(finish).collect())
    }
}

impl Window {
    /// Reads the next extents, and says where the ones after them begin.
    fn read(&mut self, reader: &PackReader, cut: &Cut, mut at: u64) -> Result<u64, FragmentError> {
        let extent_bytes = u64::from(cut.extent_bytes);
        let extents = (limits::CODED_BYTES / extent_bytes).max(1);
        self.extents.clear();
        let mut place = 0;
        while at < reader.len() && (self.extents.len() as u64) < extents {
            let bytes = (reader.len() - at).min(extent_bytes);
            let shard = cut.shard_bytes(bytes) as usize;
            let end = place + shard * usize::from(cut.needed);
            if self.bytes.len() < end {
                self.bytes.resize(end, 0);
            }
            let (data, padding) = self.bytes[place..end].split_at_mut(bytes as usize);
            reader.read_at(at, data)?;
            padding.fill(0);
            self.extents.push((place, bytes as usize, shard));
            (at, place) = (at + bytes, end);
        }
        Ok(at)
    }

    fn hash(&self, hasher: &mut blake3::Hasher) {
        for (place, bytes, _) in &self.extents {
            hasher.update(&self.bytes[*place..place + bytes]);
        }
    }
}

impl Lane {
    fn make(&mut self, window: &Window, needed: u8) -> Result<(), CodingError> {
        let bytes = window.extents.iter().map(|(_, _, shard)| shard).sum();
        self.made.iter_mut().for_each(|made| made.resize(bytes, 0));
        let mut at = 0;
        for (place, _, shard) in &window.extents {
            let all = &window.bytes[*place..place + shard * usize::from(needed)];
            let inputs: Vec<&[u8]> = all.chunks_exact(*shard).collect();
            let mut outputs: Vec<&mut [u8]> =
                self.made.iter_mut().map(|made| &mut made[at..at + shard]).collect();
            self.recipe.apply(&inputs, &mut outputs)?;
            // While they are in the processor's cache.
            for (hasher, made) in self.hashers.iter_mut().zip(&self.made) {
                hasher.update(&made[at..at + shard]);
            }
            at += shard;
        }
        Ok(())
    }
}

impl StoredSheet {
    /// Of a sheet that nobody has signed.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub fn unsigned(sheet: Sheet) -> Result<Self, FragmentError> {
        sheet.check()?;
        let bytes = sheet.encode().map_err(|_| FragmentError::SheetTooLarge { bytes: usize::MAX })?;
        Ok(Self { sheet, bytes })
    }
}
