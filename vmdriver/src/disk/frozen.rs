//! A frozen disk as the source of a snapshot's region, read in the node's process from the same files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sustain_store::RegionSource;

use super::base::{Base, read_image};
use super::blocks::{BlockSource, ChunkContent, chunk_bytes};
use super::description::{BaseKind, Description};
use super::layer::Layer;
use super::lazy::{CACHE, cache_geometry};
use super::map::Unit;
use super::stack::open_below;
use super::view::{Place, View};

/// The disk as it was when a layer was frozen.
pub(crate) struct FrozenSource {
    bytes: u64,
    view: View,
    base: FrozenBase,
}

enum FrozenBase {
    Image(Base, File, u64),
    /// What the cache did not have when it was opened is asked for where the cache would ask.
    Lazy(Layer, Arc<dyn BlockSource>),
}

impl FrozenSource {
    /// Opens what was frozen with this layer. Folding layers below it changes nothing in what is read.
    pub(crate) fn open(folder: &Path, layer: u64, source: Option<&Arc<dyn BlockSource>>) -> io::Result<Self> {
        let description = Description::load(folder)?;
        let bytes = description.disk_bytes;
        let base = match (&description.base, source) {
            (BaseKind::Image { path, bytes }, _) => {
                let file = File::open(path)?;
                FrozenBase::Image(Base::Image { file: file.try_clone()?, bytes: *bytes }, file, *bytes)
            }
            (BaseKind::Lazy, Some(source)) => {
                FrozenBase::Lazy(Layer::open(folder, CACHE, cache_geometry(bytes))?, Arc::clone(source))
            }
            (BaseKind::Lazy, None) => return Err(io::Error::other("the disk's blocks have no source")),
        };
        Ok(Self { bytes, view: View { layers: open_below(folder, layer, bytes)? }, base })
    }

    /// What the frozen layer itself has.
    pub(crate) fn changed(&self) -> Vec<Range<u64>> {
        let top = self.view.layers.first();
        top.map_or_else(Vec::new, |layer| {
            layer.map().present().into_iter().map(|units| layer.bytes_of(units)).collect()
        })
    }

    fn read_base(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.base {
            FrozenBase::Image(_, file, bytes) => read_image(file, *bytes, offset, buffer),
            FrozenBase::Lazy(cache, source) => {
                let end = offset + buffer.len() as u64;
                let mut at = offset;
                while at < end {
                    let chunk = at / cache.unit_bytes();
                    let stop = end.min((chunk + 1) * cache.unit_bytes());
                    let part = &mut buffer[(at - offset) as usize..(stop - offset) as usize];
                    match cache.map().get(chunk) {
                        Unit::Data => cache.read(at, part)?,
                        Unit::Zero => part.fill(0),
                        Unit::Absent => self.ask(&**source, chunk, at, part)?,
                    }
                    at = stop;
                }
                Ok(())
            }
        }
    }

    fn ask(&self, source: &dyn BlockSource, chunk: u64, at: u64, part: &mut [u8]) -> io::Result<()> {
        let size = sustain_proto::limits::CHUNK_BYTES as u64;
        let mut whole = vec![0; chunk_bytes(chunk, self.bytes).unwrap_or_default()];
        match source.read_chunk(chunk, &mut whole).map_err(io::Error::other)? {
            ChunkContent::Zero => part.fill(0),
            ChunkContent::Data => {
                let start = (at - chunk * size) as usize;
                part.copy_from_slice(&whole[start..start + part.len()]);
            }
        }
        Ok(())
    }
}

impl RegionSource for FrozenSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.view.read(offset, buf, |at, part| self.read_base(at, part))
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let mut ranges = Vec::new();
        for (run, place) in self.view.runs(0..self.bytes, usize::MAX) {
            match (place, &self.base) {
                (Place::Zero, _) => {}
                (Place::Base, FrozenBase::Image(base, ..)) => {
                    let mut at = run.start;
                    for (end, is_hole) in base.parts(run.clone(), usize::MAX) {
                        if !is_hole {
                            ranges.push(at..end);
                        }
                        at = end;
                    }
                }
                _ => ranges.push(run),
            }
        }
        Ok(ranges)
    }
}
