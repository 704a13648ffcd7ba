//! Logic: what a journal holds that is not in its place yet: for each such block of the disk, which of the journal's
//! blocks has its contents.
//!
//! The kernel writes changes of metadata there first, and to their places seconds later. So a disk that was in use is
//! only right together with its journal. Transactions count once their commit is there; checksums are not looked at.

use std::collections::HashMap;

use super::fields::{be16, be32, joined};
use super::{Ext4Fault, damaged};
use crate::limits;

const MAGIC: u32 = 0xC03B_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCKS: [u32; 2] = [3, 4];
const REVOKE: u32 = 5;
const HEADER_BYTES: usize = 12;

const WIDE: u32 = 0x2;
const CHECKSUMS_2: u32 = 0x8;
const CHECKSUMS_3: u32 = 0x10;
const FAST_COMMITS: u32 = 0x20;
/// Revokes, 64 bits, commits without barriers, checksums, fast commits.
const KNOWN: u32 = 0x1 | WIDE | 0x4 | CHECKSUMS_2 | CHECKSUMS_3 | FAST_COMMITS;
/// Blocks at a journal's end that fast commits take, if it does not say.
const FAST_COMMIT_BLOCKS: u32 = 256;

const ESCAPED: u32 = 0x1;
const SAME_UUID: u32 = 0x2;
const LAST: u32 = 0x8;
const UUID_BYTES: usize = 16;

/// Where the newest contents of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logged {
    /// The number of the journal's block.
    pub(crate) block: u32,
    /// Whether its first four bytes were the journal's magic number, and are zero there.
    pub(crate) escaped: bool,
    sequence: u32,
}

/// Blocks of the disk whose newest contents are in the journal.
pub(crate) type Log = HashMap<u64, Logged>;

/// The bytes with which an escaped block really begins.
pub(crate) const ESCAPED_BYTES: [u8; 4] = MAGIC.to_be_bytes();

struct Head {
    features: u32,
    first: u32,
    end: u32,
    start: u32,
    sequence: u32,
}

/// Reads the journal with `read`, which fetches its blocks by number.
pub(crate) fn replay(read: &mut dyn FnMut(u32) -> Result<Vec<u8>, Ext4Fault>) -> Result<Log, Ext4Fault> {
    let head = head(&read(0)?)?;
    if head.start == 0 {
        return Ok(Log::new());
    }
    if !(head.first..head.end).contains(&head.start) {
        return Err(damaged("the journal begins outside of itself"));
    }
    let (mut log, mut revoked) = (Log::new(), HashMap::<u64, u32>::new());
    let (mut pending, mut revoking) = (Vec::new(), Vec::new());
    let (mut at, mut sequence) = (head.start, head.sequence);
    let after = |at: u32, steps: u32| {
        let span = head.end - head.first;
        head.first + ((at - head.first) + steps % span) % span
    };
    let mut steps = 0;
    while steps < head.end {
        let block = read(at)?;
        if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
            break;
        }
        let mut taken = 1;
        match be32(&block, 4) {
            DESCRIPTOR => {
                for (number, escaped) in tags(&block, head.features) {
                    pending.push((number, Logged { block: after(at, taken), escaped, sequence }));
                    taken += 1;
                }
            }
            REVOKE => revoking.extend(revokes(&block, head.features)),
            COMMIT => {
                log.extend(pending.drain(..));
                revoked.extend(revoking.drain(..).map(|number| (number, sequence)));
                sequence = sequence.wrapping_add(1);
            }
            _ => break,
        }
        if pending.len() + revoking.len() + log.len() > limits::EXT4_JOURNAL_BLOCKS_MAX as usize * 2 {
            return Err(damaged("the journal names more blocks than it can hold"));
        }
        at = after(at, taken);
        steps += taken;
    }
    // What was revoked later is not to be put back. Numbers of transactions wrap around.
    log.retain(|number, logged| {
        revoked.get(number).is_none_or(|by| (by.wrapping_sub(logged.sequence) as i32) < 0)
    });
    Ok(log)
}

fn head(block: &[u8]) -> Result<Head, Ext4Fault> {
    let kind = be32(block, 4);
    if be32(block, 0) != MAGIC || !SUPERBLOCKS.contains(&kind) {
        return Err(damaged("the journal has no superblock"));
    }
    let features = if kind == SUPERBLOCKS[0] { 0 } else { be32(block, 0x28) };
    if features & !KNOWN != 0 {
        return Err(Ext4Fault::Unknown(format!("features {:#x} of a journal", features & !KNOWN)));
    }
    let blocks = be32(block, 0x10);
    if blocks > limits::EXT4_JOURNAL_BLOCKS_MAX {
        return Err(damaged(format!("a journal of {blocks} blocks")));
    }
    let fast = match (features & FAST_COMMITS != 0, be32(block, 0x54)) {
        (false, _) => 0,
        (true, 0) => FAST_COMMIT_BLOCKS,
        (true, blocks) => blocks,
    };
    let (first, end) = (be32(block, 0x14), blocks.saturating_sub(fast));
    if first == 0 || first >= end {
        return Err(damaged("the journal has no room"));
    }
    Ok(Head { features, first, end, start: be32(block, 0x1C), sequence: be32(block, 0x18) })
}

/// The blocks that follow a descriptor: whose they are, and whether they were escaped.
fn tags(block: &[u8], features: u32) -> Vec<(u64, bool)> {
    let wide = features & WIDE != 0;
    let third = features & CHECKSUMS_3 != 0;
    let bytes = match (third, features & CHECKSUMS_2 != 0, wide) {
        (true, ..) => 16,
        (false, true, true) => 14,
        (false, true, false) => 10,
        (false, false, true) => 12,
        (false, false, false) => 8,
    };
    // A checksum is at the end.
    let end = if third || bytes % 4 != 0 { block.len().saturating_sub(4) } else { block.len() };
    let mut tags = Vec::new();
    let mut at = HEADER_BYTES;
    while at + bytes <= end {
        let flags = if third { be32(block, at + 4) } else { u32::from(be16(block, at + 6)) };
        let high = if wide { be32(block, at + 8) } else { 0 };
        tags.push((joined(high, be32(block, at)), flags & ESCAPED != 0));
        if flags & LAST != 0 {
            break;
        }
        at += bytes + if flags & SAME_UUID == 0 { UUID_BYTES } else { 0 };
    }
    tags
}

fn revokes(block: &[u8], features: u32) -> Vec<u64> {
    let bytes = if features & WIDE != 0 { 8 } else { 4 };
    let end = (be32(block, HEADER_BYTES) as usize).min(block.len());
    let entries = block.get(HEADER_BYTES + 4..end).unwrap_or_default().chunks_exact(bytes);
    entries
        .map(
            |entry| {
                if bytes == 8 { joined(be32(entry, 0), be32(entry, 4)) } else { u64::from(be32(entry, 0)) }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(kind: u32, sequence: u32, words: &[u32]) -> Vec<u8> {
        let mut block: Vec<u8> =
            [MAGIC, kind, sequence].iter().chain(words).flat_map(|word| word.to_be_bytes()).collect();
        block.resize(1024, 0);
        block
    }

    fn superblock(blocks: u32, start: u32, sequence: u32) -> Vec<u8> {
        block(4, 0, &[1024, blocks, 1, sequence, start, 0, 0, 0x1])
    }

    fn descriptor(sequence: u32, numbers: &[u32]) -> Vec<u8> {
        let last = numbers.len() - 1;
        let tag = |(at, number): (usize, &u32)| [*number, SAME_UUID | if at == last { LAST } else { 0 }];
        let words: Vec<u32> = numbers.iter().enumerate().flat_map(tag).collect();
        block(DESCRIPTOR, sequence, &words)
    }

    fn places(journal: &[Vec<u8>]) -> Vec<(u64, u32)> {
        let mut read = |number: u32| Ok(journal[number as usize].clone());
        let mut places: Vec<_> =
            replay(&mut read).unwrap().into_iter().map(|(number, logged)| (number, logged.block)).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn only_what_was_committed_counts_and_the_newest_of_it() {
        let data = || vec![7; 1024];
        let mut journal = vec![superblock(16, 2, 5), vec![0; 1024]];
        journal.extend([descriptor(5, &[100, 200]), data(), data(), block(COMMIT, 5, &[])]);
        journal.extend([descriptor(6, &[100]), data(), block(COMMIT, 6, &[])]);
        journal.extend([descriptor(7, &[300]), data()]);
        journal.resize(16, vec![0; 1024]);
        assert_eq!(places(&journal), [(100, 7), (200, 4)]);
    }

    #[test]
    fn a_journal_goes_on_at_its_beginning_and_what_is_revoked_stays_away() {
        let mut journal = vec![superblock(8, 6, 1)];
        journal.extend([block(COMMIT, 1, &[]), block(REVOKE, 2, &[20, 40]), block(COMMIT, 2, &[])]);
        journal.extend([vec![0; 1024], vec![0; 1024]]);
        journal.extend([descriptor(1, &[40]), vec![9; 1024]]);
        assert_eq!(places(&journal), [], "block 40 was revoked by the next transaction");
        journal[2] = block(REVOKE, 2, &[20, 41]);
        assert_eq!(places(&journal), [(40, 7)]);
    }

    proptest! {
        #[test]
        fn any_journal_ends(
            words in proptest::collection::vec(prop_oneof![Just(MAGIC), 0_u32..8, any::<u32>()], 60),
            start in 0_u32..9,
        ) {
            let blocks: Vec<Vec<u8>> = words.chunks(6).map(|words| block(words[0] % 7, words[1] % 2, words)).collect();
            let mut read = |number: u32| {
                Ok(if number == 0 { superblock(9, start, 0) } else { blocks[number as usize].clone() })
            };
            let _ = replay(&mut read);
        }
    }
}
