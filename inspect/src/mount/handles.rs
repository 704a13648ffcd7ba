//! Files and folders that programs have open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::tree::Entry;
use crate::limits;
use crate::view::{ChunkFault, RegionView};

/// Something open.
#[derive(Debug)]
pub(crate) enum Handle {
    /// A region, and where the last read of it ended.
    Region(RegionView, AtomicU64),
    /// A file with a text.
    Text(Arc<[u8]>),
    /// A folder as it was when it was opened.
    Folder(Vec<Entry>),
}

impl Handle {
    /// Reads from a file; what is past its end is left out.
    pub(crate) fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, ChunkFault> {
        match self {
            Self::Region(view, last) => {
                let wanted = view.bytes().saturating_sub(offset).min(bytes as u64) as usize;
                let mut buf = vec![0; wanted];
                // The kernel's reads may overtake one another a little.
                let ended = last.swap(offset + wanted as u64, Ordering::Relaxed);
                let ahead = ended != 0 && offset.abs_diff(ended) <= bytes as u64;
                view.read_at(offset, &mut buf, ahead)?;
                Ok(buf)
            }
            Self::Text(text) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = from.saturating_add(bytes).min(text.len());
                Ok(text[from..end].to_vec())
            }
            Self::Folder(_) => Ok(Vec::new()),
        }
    }
}

/// Open files and folders by number.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: Mutex<(u64, BTreeMap<u64, Arc<Handle>>)>,
}

impl Handles {
    /// Adds one; none if too many are open.
    pub(crate) fn add(&self, handle: Handle) -> Option<u64> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, handles) = &mut *open;
        if handles.len() >= limits::OPEN_FILES_MAX {
            return None;
        }
        *last += 1;
        handles.insert(*last, Arc::new(handle));
        Some(*last)
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.get(&number).cloned()
    }

    pub(crate) fn remove(&self, number: u64) {
        // Dropped after the lock is: closing a snapshot may remove its packs' files.
        let gone = self.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&number);
        drop(gone);
    }
}
