//! What a power cut leaves of bytes and names that were not synced.
//!
//! Modelled is what ext4, XFS and btrfs may do between them, and some more:
//!
//! - Bytes survive once their file was synced. Of the writes since then any may survive, whatever their order: whole,
//!   or torn. A torn write leaves its first sectors, or any of its sectors of 512 or 4096 bytes (the ends without the
//!   middle, too), or only the length that it gave the file, with zeros for bytes (delayed allocation).
//! - Names survive once their folder was synced. Of the names that were given, changed and removed since then any may
//!   survive, whatever their order. A file's sync says nothing about its name, and a name that survives says nothing
//!   about the bytes of the file: those are zeros, torn or missing if they were not synced. A rename happens or does
//!   not; at worst both names are there. What lies in a folder whose name is lost is lost.
//! - A sync that fails loses what it was to write: what reads the file sees the bytes, a later sync says that all is
//!   well, and yet they may never reach the disk (Linux marks the pages clean).
//!
//! Not modelled: sectors that are torn themselves, bytes that change on their own, and disks that answer a sync before
//! they did it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file, whatever names it has.
pub(crate) type Inode = usize;

/// Small, fast, and good enough for choosing what a power cut forgets.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self((seed ^ 0x5851_f42d_4c95_7f2d).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Seeds that are near each other begin alike.
        (0..4).for_each(|_| _ = random.below(2));
        random
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// How much of what was not synced a cut leaves. Extremes are the most telling, so they are likely.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Survival {
    Nothing,
    Everything,
    /// What was asked for up to this moment, as with a journal; the last write may be torn.
    UpTo(u64),
    /// Each for itself.
    Any,
}

impl Survival {
    pub(crate) fn choose(random: &mut Random, moments: std::ops::Range<u64>) -> Self {
        match random.below(8) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 if !moments.is_empty() => {
                Self::UpTo(moments.start + random.below(moments.end - moments.start))
            }
            _ => Self::Any,
        }
    }

    /// Whether something that was asked for at this moment survives, and whether it may be torn.
    fn of(self, moment: u64, random: &mut Random) -> (bool, bool) {
        match self {
            Self::Nothing => (false, false),
            Self::Everything => (true, false),
            Self::UpTo(last) => (moment <= last, moment == last),
            Self::Any => (random.chance(2), true),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Bytes(offset, data) => {
                let (start, end) = (*offset as usize, *offset as usize + data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
            }
        }
    }

    /// What a torn write leaves.
    fn tear(&self, random: &mut Random) -> Vec<Self> {
        let Self::Bytes(offset, data) = self else { return vec![self.clone()] };
        let sector = if random.chance(2) { 512 } else { 4_096 };
        match random.below(4) {
            0 => {
                let sectors = self.sectors(512);
                let count = random.below(sectors.len() as u64 + 1) as usize;
                sectors.into_iter().take(count).collect()
            }
            // No less than a file that is longer already has: that is in the order of writes.
            1 => vec![Self::Bytes(*offset + data.len() as u64, Vec::new())],
            2 => {
                let sectors = self.sectors(sector);
                let last = sectors.len().saturating_sub(1);
                sectors
                    .into_iter()
                    .enumerate()
                    .filter(|(n, _)| *n == 0 || *n == last)
                    .map(|(_, s)| s)
                    .collect()
            }
            _ => self.sectors(sector).into_iter().filter(|_| random.chance(2)).collect(),
        }
    }

    /// The write, sector by sector.
    fn sectors(&self, sector: u64) -> Vec<Self> {
        let Self::Bytes(offset, data) = self else { return vec![self.clone()] };
        let (mut at, end, mut sectors) = (*offset, *offset + data.len() as u64, Vec::new());
        while at < end {
            let next = end.min((at / sector + 1) * sector);
            let part = &data[(at - offset) as usize..(next - offset) as usize];
            sectors.push(Self::Bytes(at, part.to_vec()));
            at = next;
        }
        sectors
    }
}

/// The bytes of a file: as they are read, and as far as they are safe.
#[derive(Debug, Default, Clone)]
pub(crate) struct Content {
    pub(crate) now: Vec<u8>,
    safe: Vec<u8>,
    /// Writes since the last sync, each with the moment of it.
    pending: Vec<(u64, Write)>,
}

impl Content {
    pub(crate) fn write(&mut self, moment: u64, write: Write) {
        write.apply(&mut self.now);
        self.pending.push((moment, write));
    }

    pub(crate) fn sync(&mut self) {
        self.pending.drain(..).for_each(|(_, write)| write.apply(&mut self.safe));
    }

    /// A sync that fails.
    pub(crate) fn sync_in_vain(&mut self, random: &mut Random) {
        let survival = Survival::choose(random, self.moments());
        self.forget(survival, random);
    }

    /// The power is cut, and comes back.
    pub(crate) fn cut(&mut self, survival: Survival, random: &mut Random) {
        self.forget(survival, random);
        self.now.clone_from(&self.safe);
    }

    /// Bytes go bad, whether they are in memory or on the disk.
    pub(crate) fn damage(&mut self, damage: impl Fn(&mut Vec<u8>)) {
        damage(&mut self.now);
        damage(&mut self.safe);
    }

    pub(crate) fn moments(&self) -> std::ops::Range<u64> {
        let moment = |write: Option<&(u64, Write)>| write.map(|(moment, _)| *moment);
        moment(self.pending.first()).unwrap_or(0)..moment(self.pending.last()).map_or(0, |last| last + 1)
    }

    fn forget(&mut self, survival: Survival, random: &mut Random) {
        for (moment, write) in std::mem::take(&mut self.pending) {
            match survival.of(moment, random) {
                (false, _) => {}
                (true, true) if random.chance(2) => {
                    write.tear(random).iter().for_each(|part| part.apply(&mut self.safe));
                }
                (true, _) => write.apply(&mut self.safe),
            }
        }
    }
}

/// What a name stands for: a file, or a folder.
pub(crate) type Entry = Option<Inode>;

/// The names of all files and folders: as they are found, and as far as they are safe.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) now: BTreeMap<PathBuf, Entry>,
    safe: BTreeMap<PathBuf, Entry>,
    /// What was changed since its folder was synced: when, which name, and what it stands for, if for anything. The
    /// two changes of a rename are of one moment.
    pending: Vec<(u64, PathBuf, Option<Entry>)>,
}

fn set(names: &mut BTreeMap<PathBuf, Entry>, path: &Path, entry: Option<Entry>) {
    match entry {
        Some(entry) => names.insert(path.to_owned(), entry),
        None => names.remove(path),
    };
}

impl Names {
    pub(crate) fn change(&mut self, moment: u64, path: &Path, entry: Option<Entry>) {
        set(&mut self.now, path, entry);
        self.pending.push((moment, path.to_owned(), entry));
    }

    pub(crate) fn sync(&mut self, folder: &Path) {
        let (inside, outside) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(_, path, _)| path.parent() == Some(folder));
        self.pending = outside;
        let inside: Vec<(u64, PathBuf, Option<Entry>)> = inside;
        inside.iter().for_each(|(_, path, entry)| set(&mut self.safe, path, *entry));
    }

    pub(crate) fn moments(&self) -> std::ops::Range<u64> {
        let moments = self.pending.iter().map(|(moment, ..)| *moment);
        moments.clone().min().unwrap_or(0)..moments.max().map_or(0, |last| last + 1)
    }

    /// The power is cut, and comes back.
    pub(crate) fn cut(&mut self, survival: Survival, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        let mut decided: Option<(u64, bool)> = None;
        for (moment, path, entry) in pending {
            let survives = match decided {
                Some((of, survives)) if of == moment => survives,
                _ => survival.of(moment, random).0,
            };
            decided = Some((moment, survives));
            // Now and then a rename leaves the old name, too; the new one is noted first.
            let stays = entry.is_none() && matches!(survival, Survival::Any) && random.chance(8);
            if survives && !stays {
                set(&mut self.safe, &path, entry);
            }
        }
        // A folder comes before what is in it.
        let mut found: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, entry) in &self.safe {
            let parent = path.parent().unwrap_or(Path::new("/"));
            if parent == Path::new("/") || found.get(parent) == Some(&None) {
                found.insert(path.clone(), *entry);
            }
        }
        self.now.clone_from(&found);
        self.safe = found;
    }
}
