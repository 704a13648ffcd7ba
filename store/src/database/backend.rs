//! Gives the database its file through the store's own disk, so that tests can break that too.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, DiskFile};
use crate::limits;

/// The first error of the disk that the database met.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<io::Error>>>);

impl Trouble {
    pub(super) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            // Reading past the end is what a cut file leads to: damage, not a failing disk.
            if error.kind() != io::ErrorKind::UnexpectedEof {
                let copy = match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(error.kind(), error.to_string()),
                };
                self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(copy);
            }
        }
        result
    }
}

#[derive(Debug)]
pub(super) struct Backend {
    file: Box<dyn DiskFile>,
    trouble: Trouble,
}

impl Backend {
    /// Opens the file, or makes a new one in place of what is there.
    pub(super) fn open(disk: &Arc<dyn Disk>, path: &Path, anew: bool) -> io::Result<Self> {
        if anew {
            match disk.remove(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let file = disk.create(path)?;
            if let Some(folder) = path.parent() {
                disk.sync_folder(folder)?;
            }
            return Ok(Self { file, trouble: Trouble::default() });
        }
        let file = disk.open(path, true)?;
        // An empty file is one whose making was interrupted.
        if file.bytes()? == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { file, trouble: Trouble::default() })
    }

    /// Opens a file that was just made and is empty.
    pub(super) fn open_empty(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        Ok(Self { file: disk.open(path, true)?, trouble: Trouble::default() })
    }

    pub(super) fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.trouble.note(self.file.bytes())
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        // A damaged length may ask for more than there is: refuse before setting memory aside.
        let end = offset.checked_add(len as u64);
        if len > limits::DATABASE_READ_BYTES_MAX
            || end.is_none_or(|end| self.file.bytes().is_ok_and(|b| end > b))
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.trouble.note(self.file.read_at(offset, &mut bytes))?;
        Ok(bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > limits::DATABASE_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The header says how long the file is. A power cut must not keep a new length and forget the
        // header that goes with it, or the other way round: a barrier on both sides. It is rare enough.
        let resize = || {
            self.file.sync()?;
            self.file.set_bytes(len)?;
            self.file.sync()
        };
        self.trouble.note(resize())
    }

    fn sync_data(&self, _eventual: bool) -> io::Result<()> {
        self.trouble.note(self.file.sync())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.trouble.note(self.file.write_at(offset, data))
    }
}
