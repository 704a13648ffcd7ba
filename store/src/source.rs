//! Where the bytes of a region come from: files, memory files, anything that can be read at an offset.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The bytes of one region, readable at any offset from several threads.
pub trait RegionSource: Sync {
    /// How many bytes it has. May not change while it is pushed.
    fn bytes(&self) -> u64;

    /// Fills the buffer from this offset.
    ///
    /// # Errors
    /// If not all of it can be read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Ranges that may hold anything but zeros, in any order. What is outside is taken to be zero and
    /// not read. By default everything.
    ///
    /// # Errors
    /// If the holes can't be asked for.
    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        Ok(std::iter::once(0..self.bytes()).collect())
    }
}

/// A region in a file. Holes are skipped, so a sparse file costs what it holds.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    bytes: u64,
}

impl FileSource {
    /// Opens the file at this path.
    ///
    /// # Errors
    /// If it can't be opened, is a folder or something else without a fixed size, or says that it is empty and is not.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Asked before it is opened: opening a pipe would wait for its writer.
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let reason = "it is neither a regular file nor a block device, so it has no fixed size";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let source = Self::from_file(File::open(path)?)?;
        if source.bytes == 0 && source.file.read_at(&mut [0], 0)? > 0 {
            let reason = "its size is given as 0 and yet it holds something, as files in /proc and /sys do";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(source)
    }

    /// Reads from an open file, which may be a memory file without a name.
    ///
    /// # Errors
    /// If its size can't be asked for, or if it is a folder.
    pub fn from_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // A block device says 0 here; its end can be sought.
        let bytes =
            if metadata.is_file() { metadata.len() } else { rustix::fs::seek(&file, SeekFrom::End(0))? };
        Ok(Self { file, bytes })
    }
}

impl RegionSource for FileSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), "the file has become shorter while it was read")
            }
            _ => error,
        })
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < self.bytes {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                // No data past here.
                Err(Errno::NXIO) => break,
                // A file system that knows no holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(std::iter::once(0..self.bytes).collect()),
                Err(error) => return Err(error.into()),
            };
            if start >= self.bytes {
                break;
            }
            let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
                Ok(end) => end.min(self.bytes),
                Err(_) => self.bytes,
            };
            // A file system that answers with an empty range would keep us here for ever.
            let end = end.max(start + 1);
            ranges.push(start..end);
            at = end;
        }
        Ok(ranges)
    }
}
