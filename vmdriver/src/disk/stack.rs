//! The layers of a disk in their folder.
//!
//! ```text
//! layer-7  active: takes the writes            layer-8  prepared: empty, not in use
//! layer-6  frozen ┐ at most two, each a
//! layer-5  frozen ┘ snapshot being read
//! lower    what was folded
//! ────── base ──────
//! ```
//! There is no file that says which layer is which: those in use are stacked by number, and the last is
//! active. So a freeze is one byte written to the prepared layer's head, and the end of a fold is the
//! removal of a map. A process killed at any moment leaves one state or the next.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layer::Layer;
use super::map::{Geometry, Unit};
use super::view::View;
use crate::limits::{DISK_BLOCK_BYTES, FROZEN_LAYERS_MAX};

const LOWER: &str = "lower";
const PREFIX: &str = "layer-";
/// Bytes copied at once when a layer is folded.
const COPY_BYTES: u64 = 1 << 20;

/// Why nothing was frozen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FreezeError {
    /// Earlier snapshots are still being taken in.
    #[error("{FROZEN_LAYERS_MAX} frozen layers of the disk wait to be folded")]
    Busy,
    /// The layer asked for was frozen long ago.
    #[error("the disk's active layer is {active}, not {asked}")]
    Other { asked: u64, active: u64 },
    /// The next layer can't be made or put to use.
    #[error("can't begin a new layer of the disk")]
    Io(#[from] io::Error),
}

/// The layers in use.
pub(crate) struct Stack {
    folder: PathBuf,
    disk_bytes: u64,
    active: Arc<Layer>,
    /// The newest first.
    frozen: VecDeque<Arc<Layer>>,
    lower: Arc<Layer>,
    /// Made before it is needed.
    prepared: Option<Arc<Layer>>,
}

fn name(layer: u64) -> String {
    format!("{PREFIX}{layer}")
}

fn geometry(layer: u64, disk_bytes: u64) -> Geometry {
    Geometry { layer, disk_bytes, unit_bytes: DISK_BLOCK_BYTES }
}

impl Stack {
    /// Makes the layers of a new disk.
    pub(crate) fn create(folder: &Path, disk_bytes: u64) -> io::Result<()> {
        Layer::create(folder, LOWER, geometry(0, disk_bytes), true)?;
        Layer::create(folder, &name(1), geometry(1, disk_bytes), true).map(drop)
    }

    /// Finds the layers as they were left, and sweeps what is of no use.
    pub(crate) fn open(folder: &Path, disk_bytes: u64) -> io::Result<Self> {
        let lower = Layer::open(folder, LOWER, geometry(0, disk_bytes))?;
        let mut layers = VecDeque::new();
        for number in Self::sweep(folder)? {
            let layer = Layer::open(folder, &name(number), geometry(number, disk_bytes))?;
            if layer.map().is_in_use()? {
                layers.push_front(Arc::new(layer));
            } else {
                Layer::remove(folder, &name(number))?;
            }
        }
        let active = layers.pop_front().ok_or_else(|| {
            let message = format!("{} has no active layer", folder.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        let lower = Arc::new(lower);
        Ok(Self { folder: folder.to_owned(), disk_bytes, active, frozen: layers, lower, prepared: None })
    }

    /// Removes files of layers that have no map; returns the numbers of the others, ascending.
    fn sweep(folder: &Path) -> io::Result<Vec<u64>> {
        let (mut numbers, mut others) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some((number, kind)) = file.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            match (number.parse::<u64>(), kind) {
                (Ok(number), "map") => numbers.push(number),
                (Ok(number), _) => others.push((number, kind == "data", path)),
                _ => {}
            }
        }
        for (number, is_data, path) in others {
            if !is_data || !numbers.contains(&number) {
                fs::remove_file(path)?;
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(crate) fn active(&self) -> &Arc<Layer> {
        &self.active
    }

    /// Numbers of the frozen layers, the oldest first.
    pub(crate) fn frozen(&self) -> Vec<u64> {
        self.frozen.iter().rev().map(|layer| layer.id()).collect()
    }

    /// The layer below all, into which the others are folded.
    pub(crate) fn lower(&self) -> &Arc<Layer> {
        &self.lower
    }

    /// All layers.
    pub(crate) fn view(&self) -> View {
        let mut layers = vec![Arc::clone(&self.active)];
        layers.extend(self.frozen.iter().cloned());
        layers.push(Arc::clone(&self.lower));
        View { layers }
    }

    /// What is needed to make the next layer, unless it is there.
    pub(crate) fn wants_layer(&self) -> Option<(PathBuf, u64, u64)> {
        let next = self.active.id() + 1;
        self.prepared.is_none().then(|| (self.folder.clone(), next, self.disk_bytes))
    }

    /// Takes a layer made by [`make_layer`], if it is still the next.
    pub(crate) fn take_prepared(&mut self, layer: Arc<Layer>) {
        if self.prepared.is_none() && layer.id() == self.active.id() + 1 {
            self.prepared = Some(layer);
        }
    }

    /// Freezes the layer with this number if it is active. Asking again after it was done changes nothing.
    ///
    /// # Errors
    /// If too many are frozen already, or no new layer can be begun; nothing has changed then.
    pub(crate) fn freeze(&mut self, layer: u64) -> Result<(), FreezeError> {
        let active = self.active.id();
        if layer != active {
            let is_done = self.frozen.front().is_some_and(|newest| newest.id() == layer);
            return if is_done { Ok(()) } else { Err(FreezeError::Other { asked: layer, active }) };
        }
        if self.frozen.len() >= FROZEN_LAYERS_MAX {
            return Err(FreezeError::Busy);
        }
        let next = match self.prepared.take() {
            Some(next) => next,
            None => make_layer(&self.folder, active + 1, self.disk_bytes)?,
        };
        next.map().put_to_use()?;
        self.frozen.push_front(std::mem::replace(&mut self.active, next));
        Ok(())
    }

    /// The oldest frozen layer and the one that it goes into.
    pub(crate) fn oldest_frozen(&self) -> Option<(Arc<Layer>, Arc<Layer>)> {
        self.frozen.back().map(|oldest| (Arc::clone(oldest), Arc::clone(&self.lower)))
    }

    /// Removes the oldest frozen layer, whose content is in the lower one now.
    pub(crate) fn remove_folded(&mut self, layer: u64) -> io::Result<()> {
        if self.frozen.back().is_none_or(|oldest| oldest.id() != layer) {
            return Ok(());
        }
        self.frozen.pop_back();
        Layer::remove(&self.folder, &name(layer))
    }
}

/// Makes an empty layer that is not in use yet.
pub(crate) fn make_layer(folder: &Path, number: u64, disk_bytes: u64) -> io::Result<Arc<Layer>> {
    Layer::create(folder, &name(number), geometry(number, disk_bytes), false).map(Arc::new)
}

/// Copies a layer into the one below it. Readers that look at both see the same before, during and after
/// it, and it may be begun again after it was broken off.
pub(crate) fn copy_down(from: &Layer, to: &Layer, stop: impl Fn() -> bool) -> io::Result<()> {
    let unit_bytes = from.unit_bytes();
    let mut buffer = Vec::new();
    for range in from.map().present() {
        let mut at = range.start;
        while at < range.end {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let kind = from.map().get(at);
            let limit = range.end.min(at + COPY_BYTES / unit_bytes);
            let end = (at + 1..limit).find(|unit| from.map().get(*unit) != kind).unwrap_or(limit);
            if kind == Unit::Data {
                let bytes = from.bytes_of(at..end);
                buffer.resize((bytes.end - bytes.start) as usize, 0);
                from.read(bytes.start, &mut buffer)?;
                to.write_units(at, &buffer)?;
            } else {
                to.zero_units(at..end)?;
            }
            at = end;
        }
    }
    Ok(())
}

/// Opens a frozen layer and all that is below it, the top one first, while another process may be
/// folding what is below. The lower layer comes last: a layer that is gone by then is in it.
pub(crate) fn open_below(folder: &Path, top: u64, disk_bytes: u64) -> io::Result<Vec<Arc<Layer>>> {
    let mut layers = vec![Arc::new(Layer::open(folder, &name(top), geometry(top, disk_bytes))?)];
    for number in (top.saturating_sub(FROZEN_LAYERS_MAX as u64)..top).rev() {
        match Layer::open(folder, &name(number), geometry(number, disk_bytes)) {
            Ok(layer) => layers.push(Arc::new(layer)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    layers.push(Arc::new(Layer::open(folder, LOWER, geometry(0, disk_bytes))?));
    Ok(layers)
}
