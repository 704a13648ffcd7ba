//! Whose the changed blocks of an ext4 file system are: of which files, of the journal, of the metadata, of nobody.

use std::collections::BTreeMap;

use serde::Serialize;

use super::paths::{self, TOP};
use super::spans::{self, Span};
use crate::ext4::{Bytes, Ext4Fault, Image, Inode, InodeKind, damaged};
use crate::limits;

/// What a changed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A file with data.
    File,
    /// A folder, whose data are names.
    Folder,
    /// A symbolic link with a long target.
    Link,
}

/// A file of which blocks were written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// One of its paths; none if no folder has it.
    pub path: Option<String>,
    /// Its inode's number.
    pub inode: u32,
    /// What it is.
    pub kind: FileKind,
    /// Its bytes in the later snapshot.
    pub bytes: u64,
    /// Bytes in the pages that changed.
    pub bytes_changed: u64,
    /// Where in the file. Empty if there are too many ranges in all.
    pub ranges: Vec<Span>,
}

/// Whose the changed pages of a region with an ext4 file system are, as the later snapshot has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilesDiff {
    /// Files and folders, those with the most changed bytes first.
    pub files: Vec<FileChange>,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Bytes of what describes files: tables, bitmaps, trees of extents.
    pub metadata_bytes: u64,
    /// Bytes that belong to no file: of deleted files, say.
    pub free_bytes: u64,
    /// Bytes behind the file system's end.
    pub outside_bytes: u64,
    /// Bytes of files that are too many to be listed.
    pub unlisted_bytes: u64,
    /// What could not be understood; its blocks count as metadata.
    pub problems: Vec<String>,
}

/// The first inode of an ordinary file. Those before it are the file system's own, but for the top folder.
const FIRST_ORDINARY: u32 = 11;

struct Mapping<'a, B> {
    image: &'a Image<B>,
    changed: &'a [Span],
    found: BTreeMap<u32, FileChange>,
    ranges: usize,
    /// Changed blocks whose owner is known.
    owned: Vec<Span>,
    diff: FilesDiff,
}

/// Finds out whose the changed ranges of an image are.
pub(crate) fn map<B: Bytes>(bytes: B, changed: &[Span]) -> Result<FilesDiff, Ext4Fault> {
    let image = Image::open(bytes)?;
    let mut mapping = Mapping {
        image: &image,
        changed,
        found: BTreeMap::new(),
        ranges: 0,
        owned: Vec::new(),
        diff: FilesDiff::default(),
    };
    mapping.journal();
    mapping.inodes()?;
    mapping.rest()?;
    let Mapping { mut found, mut diff, .. } = mapping;
    paths::find(&image, &mut found, &mut diff.problems)?;
    diff.files = found.into_values().collect();
    diff.files.sort_by(|a, b| b.bytes_changed.cmp(&a.bytes_changed).then_with(|| a.path.cmp(&b.path)));
    Ok(diff)
}

/// Notes what could not be understood. What can't be read at all ends the comparison.
pub(super) fn survive(
    problems: &mut Vec<String>,
    what: &str,
    outcome: Result<(), Ext4Fault>,
) -> Result<(), Ext4Fault> {
    let Err(fault) = outcome else { return Ok(()) };
    if let Ext4Fault::Read(_) = fault {
        return Err(fault);
    }
    if problems.len() < limits::PROBLEMS_MAX {
        problems.push(format!("{what}: {fault}"));
    }
    Ok(())
}

impl<B: Bytes> Mapping<'_, B> {
    fn survive(&mut self, what: &str, outcome: Result<(), Ext4Fault>) -> Result<(), Ext4Fault> {
        survive(&mut self.diff.problems, what, outcome)
    }

    fn journal(&mut self) {
        let block_bytes = self.image.superblock().block_bytes;
        let mut owned = Vec::new();
        for extent in self.image.journal() {
            let start = extent.physical * block_bytes;
            for part in spans::within(self.changed, start..start + extent.blocks * block_bytes) {
                owned.push(Span { offset: part.start, bytes: part.end - part.start });
            }
        }
        let owned = spans::join(owned);
        self.diff.journal_bytes = spans::total(&owned);
        self.owned.extend(owned);
    }

    /// Looks at all inodes in use for changed blocks.
    fn inodes(&mut self) -> Result<(), Ext4Fault> {
        let image = self.image;
        let journal = image.superblock().journal_inode;
        let mut left = limits::EXT4_INODES_MAX;
        for group in 0..image.superblock().groups() {
            let outcome = image.inodes_of_group(group, &mut |number, inode| {
                left = left.checked_sub(1).ok_or_else(|| damaged("it has more inodes than are looked at"))?;
                let reserved = number < FIRST_ORDINARY && number != TOP;
                if reserved || number == journal || inode.kind == InodeKind::Other {
                    return Ok(());
                }
                let outcome = self.inode(number, inode);
                self.survive(&format!("inode {number}"), outcome)
            });
            self.survive(&format!("the inodes of group {group}"), outcome)?;
            if left == 0 {
                break;
            }
        }
        self.owned = spans::join(std::mem::take(&mut self.owned));
        Ok(())
    }

    fn inode(&mut self, number: u32, inode: &Inode) -> Result<(), Ext4Fault> {
        if inode.is_old() {
            return Err(Ext4Fault::Unknown("a list of blocks as ext2 has it".to_owned()));
        }
        let block_bytes = self.image.superblock().block_bytes;
        let (changed, mut ranges, mut owned) = (self.changed, Vec::new(), Vec::new());
        let outcome = self.image.extents(inode, &mut |extent| {
            let start = extent.physical * block_bytes;
            for part in spans::within(changed, start..start + extent.blocks * block_bytes) {
                let from = part.start - start + extent.logical * block_bytes;
                // Of the last block, what is past the file's end is nobody's to miss.
                let end = (from + (part.end - part.start)).min(inode.bytes.max(from));
                spans::append(&mut ranges, from..end);
                spans::append(&mut owned, part);
            }
        });
        if !owned.is_empty() {
            self.note(number, inode, ranges);
            self.owned.extend(owned);
            // They grow by one file at a time, which is bounded by the extents that are read.
            if self.owned.len() > limits::CHANGED_RANGES_MAX {
                self.owned = spans::join(std::mem::take(&mut self.owned));
            }
        }
        outcome
    }

    fn note(&mut self, number: u32, inode: &Inode, mut ranges: Vec<Span>) {
        let bytes_changed = spans::total(&ranges);
        if self.found.len() >= limits::CHANGED_FILES_MAX {
            self.diff.unlisted_bytes += bytes_changed;
            return;
        }
        if self.ranges + ranges.len() > limits::CHANGED_FILE_RANGES_MAX {
            ranges.clear();
        }
        self.ranges += ranges.len();
        let kind = match inode.kind {
            InodeKind::Folder => FileKind::Folder,
            InodeKind::Link => FileKind::Link,
            InodeKind::File | InodeKind::Other => FileKind::File,
        };
        let change =
            FileChange { path: None, inode: number, kind, bytes: inode.bytes, bytes_changed, ranges };
        self.found.insert(number, change);
    }

    /// Sorts what no file has: into metadata, which is in use, and free blocks.
    fn rest(&mut self) -> Result<(), Ext4Fault> {
        let superblock = self.image.superblock().clone();
        let (block_bytes, end) = (superblock.block_bytes, superblock.blocks * superblock.block_bytes);
        let group_bytes = superblock.blocks_per_group * block_bytes;
        let start = superblock.first_block * block_bytes;
        let mut bitmap: Option<(u64, Option<Vec<u8>>)> = None;
        for span in spans::without(self.changed, &self.owned) {
            let mut at = span.offset;
            while at < span.end() {
                if at < start || at >= end {
                    let until = if at < start { start.min(span.end()) } else { span.end() };
                    let bytes = until - at;
                    if at < start {
                        self.diff.metadata_bytes += bytes
                    } else {
                        self.diff.outside_bytes += bytes
                    }
                    at = until;
                    continue;
                }
                let until = (at / block_bytes + 1) * block_bytes;
                let bytes = until.min(span.end()) - at;
                let group = (at - start) / group_bytes;
                if bitmap.as_ref().is_none_or(|(known, _)| *known != group) {
                    bitmap = Some((group, self.bitmap(group)?));
                }
                let index = ((at - start) % group_bytes / block_bytes) as usize;
                let used = match bitmap.as_ref().and_then(|(_, bits)| bits.as_ref()) {
                    Some(bits) => bits.get(index / 8).is_none_or(|byte| byte & 1 << (index % 8) != 0),
                    None => false,
                };
                if used {
                    self.diff.metadata_bytes += bytes
                } else {
                    self.diff.free_bytes += bytes
                }
                at += bytes;
            }
        }
        Ok(())
    }

    /// The bits of a group's blocks in use; none where none was ever used. One that is damaged says that all are.
    fn bitmap(&mut self, group: u64) -> Result<Option<Vec<u8>>, Ext4Fault> {
        let read = self
            .image
            .group(group)
            .and_then(|group| group.bitmap.map(|block| self.image.block(block)).transpose());
        match read {
            Ok(bits) => Ok(bits),
            Err(fault) => {
                self.survive(&format!("the bitmap of group {group}"), Err(fault))?;
                Ok(Some(Vec::new()))
            }
        }
    }
}
