//! A layer: what was written over that which lies below, as a sparse data file and a map.
//!
//! Data are written before they are marked, and only whole units are marked: a process killed in between
//! leaves a unit that shows what was there before, never a mixture with old bytes of the file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::map::{Geometry, Map, Unit};

#[derive(Debug)]
pub(crate) struct Layer {
    geometry: Geometry,
    data: File,
    map: Map,
}

/// The layer's two files: map and data.
pub(crate) fn paths(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (folder.join(format!("{name}.map")), folder.join(format!("{name}.data")))
}

impl Layer {
    /// Makes an empty layer. Its map comes last: a layer is there once its map is.
    pub(crate) fn create(folder: &Path, name: &str, geometry: Geometry, in_use: bool) -> io::Result<Self> {
        let (map_path, data_path) = paths(folder, name);
        let data = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&data_path)?;
        data.set_len(geometry.disk_bytes)?;
        let made = folder.join(format!("{name}.new"));
        let map = Map::create(&made, &geometry, in_use)?;
        fs::rename(&made, &map_path)?;
        Ok(Self { geometry, data, map })
    }

    /// Opens a layer as it was left.
    pub(crate) fn open(folder: &Path, name: &str, geometry: Geometry) -> io::Result<Self> {
        let (map_path, data_path) = paths(folder, name);
        let map = Map::open(&map_path, &geometry)?;
        let data = OpenOptions::new().read(true).write(true).open(&data_path)?;
        if data.metadata()?.len() != geometry.disk_bytes {
            let message = format!("{} does not have the disk's size", data_path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Self { geometry, data, map })
    }

    /// Removes a layer's files, the map first: what is left without it is swept.
    pub(crate) fn remove(folder: &Path, name: &str) -> io::Result<()> {
        let (map_path, data_path) = paths(folder, name);
        fs::remove_file(map_path)?;
        fs::remove_file(data_path)
    }

    pub(crate) fn id(&self) -> u64 {
        self.geometry.layer
    }

    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    pub(crate) fn unit_bytes(&self) -> u64 {
        self.geometry.unit_bytes
    }

    /// Where units begin and end on the disk, whose last may be short.
    pub(crate) fn bytes_of(&self, units: Range<u64>) -> Range<u64> {
        let to_bytes = |unit: u64| (unit * self.geometry.unit_bytes).min(self.geometry.disk_bytes);
        to_bytes(units.start)..to_bytes(units.end)
    }

    /// Reads from units that are data.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(buffer, offset)
    }

    /// Writes whole units.
    pub(crate) fn write_units(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let unit_bytes = self.geometry.unit_bytes;
        let end = first + (bytes.len() as u64).div_ceil(unit_bytes);
        debug_assert_eq!(self.bytes_of(first..end).end - first * unit_bytes, bytes.len() as u64);
        self.data.write_all_at(bytes, first * unit_bytes)?;
        self.map.set(first..end, Unit::Data)
    }

    /// Writes into units that are data already.
    pub(crate) fn overwrite(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all_at(bytes, offset)
    }

    /// Makes whole units zero, and gives their room back. Marked first: a unit that is marked zero shows
    /// nothing of what the file holds.
    pub(crate) fn zero_units(&self, units: Range<u64>) -> io::Result<()> {
        let has_data = units.clone().any(|unit| self.map.get(unit) == Unit::Data);
        self.map.set(units.clone(), Unit::Zero)?;
        if !has_data {
            return Ok(());
        }
        let bytes = self.bytes_of(units);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.data, flags, bytes.start, bytes.end - bytes.start) {
            // A file system without holes keeps the room; that is all.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until everything is on the medium.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.data.sync_data()?;
        self.map.sync()
    }
}
