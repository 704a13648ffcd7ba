//! What changed files are called: the folders are walked from the top until each has a name.

use std::collections::{BTreeMap, HashSet};

use super::files::{FileChange, survive};
use crate::ext4::{Bytes, Ext4Fault, Image, InodeKind, damaged, names};
use crate::limits;

/// The top folder's inode, by the format.
pub(super) const TOP: u32 = 2;

/// A folder that was found, or is to be looked into.
struct Folder {
    inode: u32,
    /// Where the one above is in the list; the top folder is above itself.
    above: usize,
    depth: usize,
    name: Box<[u8]>,
}

/// What is called with the inode and the name of each entry of a folder.
type EachName<'a> = dyn FnMut(u32, &[u8]) -> Result<(), Ext4Fault> + 'a;

/// Gives each file a path, as far as there is one.
pub(super) fn find<B: Bytes>(
    image: &Image<B>,
    found: &mut BTreeMap<u32, FileChange>,
    problems: &mut Vec<String>,
) -> Result<(), Ext4Fault> {
    let mut missing = found.len();
    if let Some(top) = found.get_mut(&TOP) {
        top.path = Some("/".to_owned());
        missing -= 1;
    }
    let mut folders = vec![Folder { inode: TOP, above: 0, depth: 0, name: Box::default() }];
    let mut seen = HashSet::from([TOP]);
    let (mut blocks_left, mut path_bytes) = (limits::EXT4_FOLDER_BLOCKS_MAX, 0);
    let mut next = 0;
    while missing > 0 && next < folders.len() {
        let (inode, depth) = (folders[next].inode, folders[next].depth);
        let mut below = Vec::new();
        let outcome = each_name(image, inode, &mut blocks_left, &mut |number, name| {
            if let Some(change) = found.get_mut(&number).filter(|change| change.path.is_none()) {
                let path = path(&folders, next, name);
                path_bytes += path.len();
                if path_bytes <= limits::CHANGED_PATH_BYTES_MAX {
                    change.path = Some(path);
                    missing -= 1;
                }
            }
            if !seen.contains(&number) && is_folder(image, number)? {
                if seen.len() >= limits::EXT4_FOLDERS_MAX || depth >= limits::EXT4_DEPTH_MAX {
                    return Err(damaged("there are more folders, or deeper ones, than are looked into"));
                }
                seen.insert(number);
                below.push(Folder { inode: number, above: next, depth: depth + 1, name: name.into() });
            }
            Ok(())
        });
        folders.extend(below);
        if let Err(fault) = outcome {
            survive(problems, &format!("the folder {}", path(&folders, next, b"")), Err(fault))?;
        }
        next += 1;
    }
    Ok(())
}

/// The path of a name in a folder.
fn path(folders: &[Folder], folder: usize, name: &[u8]) -> String {
    let mut parts = vec![name];
    let mut at = folder;
    while let Some(folder) = folders.get(at).filter(|folder| folder.inode != TOP) {
        parts.push(&folder.name);
        at = folder.above;
    }
    let mut path = String::new();
    for part in parts.iter().rev() {
        path.push('/');
        path.push_str(&String::from_utf8_lossy(part));
    }
    path
}

fn is_folder<B: Bytes>(image: &Image<B>, number: u32) -> Result<bool, Ext4Fault> {
    match image.inode(number) {
        Ok(inode) => Ok(inode.is_some_and(|inode| inode.kind == InodeKind::Folder)),
        Err(Ext4Fault::Read(fault)) => Err(Ext4Fault::Read(fault)),
        // A name that leads nowhere is no folder.
        Err(_) => Ok(false),
    }
}

/// Calls `each` with the inodes and names in a folder.
fn each_name<B: Bytes>(
    image: &Image<B>,
    number: u32,
    blocks_left: &mut u64,
    each: &mut EachName<'_>,
) -> Result<(), Ext4Fault> {
    let Some(inode) = image.inode(number)? else { return Ok(()) };
    if inode.inline || inode.is_old() {
        return Err(Ext4Fault::Unknown("a folder without extents".to_owned()));
    }
    let end = inode.bytes.div_ceil(image.superblock().block_bytes);
    let mut blocks = Vec::new();
    image.extents(&inode, &mut |extent| {
        let used = end.saturating_sub(extent.logical).min(extent.blocks);
        blocks.push(extent.physical..extent.physical + used);
    })?;
    for block in blocks.into_iter().flatten() {
        *blocks_left =
            blocks_left.checked_sub(1).ok_or_else(|| damaged("it has more folders than are read"))?;
        for name in names(&image.block(block)?) {
            let name = name?;
            each(name.inode, name.name)?;
        }
    }
    Ok(())
}
