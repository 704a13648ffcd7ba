//! Reading chunks: each is put together from its block and what it refers to, and checked against its id.
//!
//! A chunk refers to one that refers to nothing itself: depth is one, whatever a pack says.

use std::path::PathBuf;

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{ChunkId, ChunkKey, PackId};

use crate::Fault;
use crate::block::{Decoder, Encoding, StoredChunk};
use crate::catalogue::{BlockPlace, Catalogue, Place};
use crate::ingest::no_memory;
use crate::pack_file::PackFile;
use crate::store::Shared;

/// Where chunks are read from.
#[derive(Clone, Copy)]
pub(crate) struct Chunks<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) catalogue: &'a Catalogue,
    /// Without it, chunks are read but not checked.
    pub(crate) key: Option<&'a ChunkKey>,
}

/// A block that was decoded, and the pack that it came from.
#[derive(Default)]
struct Decoded {
    place: Option<BlockPlace>,
    pack: Option<(PackId, PackFile)>,
    stored: Vec<u8>,
    data: Vec<u8>,
}

/// Reads chunks. One a thread; its memory is reused, and the block read last is kept.
pub(crate) struct ChunkReader {
    decoder: Decoder,
    block: Decoded,
    /// What the block's chunks refer to, in their order; empty for one that refers to nothing.
    references: Vec<Vec<u8>>,
    /// The block that has the chunk referred to.
    base: Decoded,
    prefix: Vec<u8>,
    plain: Vec<u8>,
}

impl Chunks<'_> {
    fn open<'f>(&self, decoded: &'f mut Decoded, pack: u32) -> Result<&'f PackFile, Fault> {
        let id = self.catalogue.pack(pack).id;
        let opened = match decoded.pack.take() {
            Some(open) if open.0 == id => open,
            _ => (id, PackFile::open(self.shared.disk.as_ref(), &self.shared.layout, &id)?),
        };
        Ok(&decoded.pack.insert(opened).1)
    }

    fn path(&self, pack: u32) -> PathBuf {
        self.shared.layout.pack(&self.catalogue.pack(pack).id)
    }

    fn damaged(&self, pack: u32, reason: impl std::fmt::Display) -> Fault {
        Fault::damaged(&self.path(pack), reason)
    }

    /// Decodes a block, unless it is there already.
    fn decode(
        &self,
        decoder: &mut Decoder,
        decoded: &mut Decoded,
        place: BlockPlace,
        prefix: &[u8],
    ) -> Result<(), Fault> {
        if decoded.place.take() != Some(place) {
            let block = self.catalogue.block(place);
            let mut stored = std::mem::take(&mut decoded.stored);
            self.open(decoded, place.pack)?.stored(&block, &mut stored)?;
            decoded.stored = stored;
            decoded.data.resize(block.plain_bytes as usize, 0);
            decoder
                .decode(block.encoding, &decoded.stored, prefix, &mut decoded.data)
                .map_err(|reason| self.damaged(place.pack, reason))?;
        }
        decoded.place = Some(place);
        Ok(())
    }

    /// Where a chunk's bytes are in its block.
    fn data<'d>(&self, decoded: &'d Decoded, place: Place) -> &'d [u8] {
        let block = self.catalogue.block_of(place);
        let before = self.catalogue.chunks_of(block).take_while(|(other, _)| other.chunk < place.chunk);
        let start = before.map(|(_, chunk)| chunk.data_bytes()).sum::<usize>();
        // The block was decoded to the sum of its chunks' bytes.
        &decoded.data[start..start + self.catalogue.entry(place).data_bytes()]
    }

    /// The place of what a chunk refers to.
    fn referred(&self, from: u32, reference: &ChunkId) -> Result<Place, Fault> {
        let place = self.catalogue.chunk(reference).ok_or_else(|| {
            self.damaged(from, format_args!("it refers to chunk {}, which is nowhere", reference.short()))
        })?;
        if self.catalogue.entry(place).reference.is_some() {
            return Err(self.damaged(from, "a chunk refers to one that refers to another"));
        }
        Ok(place)
    }

    fn is_genuine(&self, id: &ChunkId, plain: &[u8]) -> bool {
        self.key.is_none_or(|key| key.chunk_id(plain) == *id)
    }
}

impl ChunkReader {
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            decoder: Decoder::new().map_err(no_memory)?,
            block: Decoded::default(),
            references: Vec::new(),
            base: Decoded::default(),
            prefix: Vec::new(),
            plain: Vec::with_capacity(CHUNK_BYTES),
        })
    }

    /// A chunk's bytes, checked against its id.
    pub(crate) fn chunk(&mut self, from: Chunks<'_>, place: Place) -> Result<&[u8], Fault> {
        let entry = from.catalogue.entry(place);
        let read = if from.catalogue.is_alone(place) {
            self.alone(from, place, &entry)
        } else {
            let block = from.catalogue.block_of(place);
            self.load(from, block).and_then(|()| self.assemble(from, place, &entry))
        };
        let fault = match read {
            Ok(()) if from.is_genuine(&entry.id, &self.plain) => return Ok(&self.plain),
            Ok(()) => from.damaged(place.pack, "a chunk is not what its id says"),
            Err(fault) => fault,
        };
        self.block.place = None;
        Err(self.blame(from, place, fault))
    }

    /// A chunk that has its block for itself.
    fn alone(&mut self, from: Chunks<'_>, place: Place, entry: &StoredChunk) -> Result<(), Fault> {
        from.decode(&mut self.decoder, &mut self.base, from.catalogue.block_of(place), &[])?;
        self.plain.resize(entry.plain_bytes as usize, 0);
        let assembled = entry.pages.assemble(&self.base.data, &[], &mut self.plain);
        assembled.map_err(|reason| from.damaged(place.pack, reason))
    }

    /// Decodes a block after what its chunks refer to.
    fn load(&mut self, from: Chunks<'_>, place: BlockPlace) -> Result<(), Fault> {
        if self.block.place == Some(place) {
            return Ok(());
        }
        self.block.place = None;
        self.prefix.clear();
        for (number, (at, chunk)) in from.catalogue.chunks_of(place).enumerate() {
            if self.references.len() == number {
                self.references.push(Vec::new());
            }
            self.references[number].clear();
            let Some(reference) = &chunk.reference else { continue };
            let referred = from.referred(at.pack, reference)?;
            self.read_reference(from, referred, number)?;
            let bytes = chunk.plain_bytes as usize;
            chunk.pages.append_prefix(bytes, &self.references[number], &mut self.prefix);
        }
        from.decode(&mut self.decoder, &mut self.block, place, &self.prefix)
    }

    fn read_reference(&mut self, from: Chunks<'_>, referred: Place, number: usize) -> Result<(), Fault> {
        let entry = from.catalogue.entry(referred);
        let block = from.catalogue.block_of(referred);
        if from.catalogue.block(block).encoding == Encoding::Delta {
            return Err(from.damaged(referred.pack, "a chunk is referred to whose block has a dictionary"));
        }
        from.decode(&mut self.decoder, &mut self.base, block, &[])?;
        let plain = &mut self.references[number];
        plain.resize(entry.plain_bytes as usize, 0);
        let assembled = entry.pages.assemble(from.data(&self.base, referred), &[], plain);
        assembled.map_err(|reason| from.damaged(referred.pack, reason))
    }

    fn assemble(&mut self, from: Chunks<'_>, place: Place, entry: &StoredChunk) -> Result<(), Fault> {
        let block = from.catalogue.block_of(place);
        let number =
            from.catalogue.chunks_of(block).take_while(|(other, _)| other.chunk < place.chunk).count();
        self.plain.resize(entry.plain_bytes as usize, 0);
        let data = from.data(&self.block, place);
        let assembled = entry.pages.assemble(data, &self.references[number], &mut self.plain);
        assembled.map_err(|reason| from.damaged(place.pack, reason))
    }

    /// Whose fault it is that a chunk can't be read: perhaps that of the pack of a chunk that its block refers to.
    fn blame(&self, from: Chunks<'_>, place: Place, fault: Fault) -> Fault {
        if !matches!(fault, Fault::Damaged { .. }) || from.catalogue.is_alone(place) {
            return fault;
        }
        let chunks = from.catalogue.chunks_of(from.catalogue.block_of(place));
        for ((_, chunk), plain) in chunks.zip(&self.references) {
            let Some(reference) = chunk.reference.filter(|_| !plain.is_empty()) else { continue };
            if let Some(referred) =
                from.catalogue.chunk(&reference).filter(|_| !from.is_genuine(&reference, plain))
            {
                return from.damaged(referred.pack, "a chunk is not what its id says");
            }
        }
        fault
    }
}
