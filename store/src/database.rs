//! The database: a journal of what was committed. It is read whole when the store is opened; whoever has the store open
//! reads on where others have appended.
//!
//! It holds nothing that can't be made anew from packs and manifests, but for the durable marks. Only who holds the
//! commit lock writes. One appends; a journal that has grown far beyond what it says is written anew, in place of the
//! old.

mod contents;
mod frames;
mod load;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::publish::{TemporaryFile, new_name};
use crate::reserve::with_reserve;
use crate::{ErrorKind, Fault, limits};
pub(crate) use contents::{Changes, Contents, without};
use frames::{HEADER_BYTES, Salt};
pub(crate) use load::try_read;
use load::{Loaded, load, read};

/// Whether what was found can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Found whole.
    Whole,
    /// There was none, and nothing else either.
    Fresh,
    /// Lost; this is why.
    Rebuilt(String),
}

/// What others have done since the last look.
#[derive(Debug, Default)]
pub(crate) enum News {
    /// Nothing.
    #[default]
    None,
    /// These changes, in this order.
    Changes(Vec<Changes>),
    /// The journal is another one: all may be different.
    All,
}

/// An open journal.
#[derive(Debug)]
struct Journal {
    file: Box<dyn DiskFile>,
    /// The same file for writing, once something was written.
    writer: Option<Box<dyn DiskFile>>,
    number: u64,
    salt: Salt,
    /// Where the next frame begins.
    end: u64,
    /// At this size it is written anew.
    renew_at: u64,
}

impl Journal {
    /// A journal whose first frame and last frame end here.
    fn new(
        file: Box<dyn DiskFile>,
        path: &Path,
        salt: Salt,
        (first, end): (u64, u64),
    ) -> Result<Self, Fault> {
        let number = file.number().during("look at", path)?;
        let renew_at = first * limits::DATABASE_GROWTH + limits::DATABASE_BYTES_MIN;
        Ok(Self { file, writer: None, number, salt, end, renew_at })
    }
}

/// A frame of this process whose write has failed: nobody knows whether it is in the file.
#[derive(Debug)]
struct Failed {
    number: u64,
    to: u64,
}

/// The database.
///
/// After a failed write nobody knows what the file holds: the write may be in it or not, and a later sync says nothing
/// about what an earlier one lost. So a new file is made of what was acknowledged, in place of the old, before anything
/// is appended.
#[derive(Debug)]
pub(crate) struct Database {
    disk: Arc<dyn Disk>,
    layout: Layout,
    path: PathBuf,
    journal: Option<Journal>,
    /// What was acknowledged.
    contents: Contents,
    /// The file is not to be appended to.
    renew: bool,
    failed: Option<Failed>,
    /// What was read and nobody has acted on.
    news: News,
}

impl Database {
    /// Reads the journal. If there is none, or it is damaged, the first change makes a new one.
    pub(crate) fn open(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<(Self, Trust), Fault> {
        let path = layout.database();
        let (found, trust) = match load(disk.as_ref(), &path)? {
            Loaded::Whole(journal, contents) => (Some((journal, contents)), Trust::Whole),
            Loaded::Missing => (None, Trust::Fresh),
            Loaded::Damaged(reason) => (None, Trust::Rebuilt(reason)),
        };
        let renew = found.is_none();
        let (journal, contents) = found.unzip();
        let (disk, layout) = (disk.clone(), layout.clone());
        let contents = contents.unwrap_or_default();
        let news = News::None;
        Ok((Self { disk, layout, path, journal, contents, renew, failed: None, news }, trust))
    }

    /// What was acknowledged, as far as it was read.
    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Reads what others have appended. What is found stays until [`settled`](Self::settled).
    pub(crate) fn follow(&mut self) -> Result<&News, Fault> {
        // A torn end that is cut off in this moment comes short once.
        for _ in 0..limits::FOLLOW_TRIES {
            match self.try_follow() {
                Err(Fault::Disk { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {}
                other => return other.map(|()| &self.news),
            }
        }
        self.try_follow().map(|()| &self.news)
    }

    /// What [`follow`](Self::follow) has found.
    pub(crate) fn news(&self) -> &News {
        &self.news
    }

    /// What [`follow`](Self::follow) has found is acted on.
    pub(crate) fn settled(&mut self) {
        self.news = News::None;
    }

    fn try_follow(&mut self) -> Result<(), Fault> {
        let stamp = match self.disk.stamp(&self.path) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // What this process knows is written anew by the next change.
                (self.journal, self.renew) = (None, true);
                return Ok(());
            }
            Err(error) => return Err(error).during("look at", &self.path),
        };
        match &self.journal {
            Some(journal) if journal.number == stamp.number => self.read_on(stamp.bytes),
            _ => self.read_anew(),
        }
    }

    fn read_on(&mut self, bytes: u64) -> Result<(), Fault> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if bytes < journal.end {
            // Damage. What this process knows is written anew.
            self.renew = true;
            return Ok(());
        }
        let tail = read(journal.file.as_ref(), &self.path, journal.end..bytes)?;
        let (mut at, mut found) = (0, Vec::new());
        while let Some((changes, length)) =
            frames::read_frame::<Changes>(journal.salt, journal.end + at as u64, &tail[at..])
        {
            found.push(changes);
            at += length;
        }
        let end = journal.end + at as u64;
        let own = |failed: &Failed| failed.number == journal.number && failed.to == end;
        if found.is_empty() || self.failed.as_ref().is_some_and(own) {
            return Ok(());
        }
        journal.end = end;
        // Others have built on it: it counts.
        self.failed = None;
        found.iter().for_each(|changes| self.contents.change(changes));
        let snapshots = &self.contents.snapshots;
        self.contents.gone.retain(|id, ()| !snapshots.contains_key(id));
        match &mut self.news {
            News::Changes(known) => known.append(&mut found),
            News::None => self.news = News::Changes(found),
            News::All => {}
        }
        Ok(())
    }

    fn read_anew(&mut self) -> Result<(), Fault> {
        match load(self.disk.as_ref(), &self.path)? {
            Loaded::Whole(journal, contents) => {
                (self.journal, self.contents, self.failed) = (Some(journal), contents, None);
                self.news = News::All;
            }
            Loaded::Missing => (self.journal, self.renew) = (None, true),
            Loaded::Damaged(reason) => {
                tracing::warn!(path = %self.path.display(), reason, "the database is damaged, and is made anew");
                (self.journal, self.renew) = (None, true);
            }
        }
        Ok(())
    }

    /// Appends changes, on stable storage when it returns. The caller holds the commit lock and has followed.
    pub(crate) fn apply(&mut self, changes: &Changes) -> Result<(), Fault> {
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let mut write = || {
            if self.renew {
                self.write_anew().map_err(|(fault, _)| fault)?;
            }
            let outcome = self.append(changes);
            self.renew |= outcome.is_err();
            outcome
        };
        // What makes space may have the last there is.
        let outcome =
            if changes.drop_something() { with_reserve(disk.as_ref(), &layout, write) } else { write() };
        let fault = match outcome {
            Ok(()) => {
                self.contents.change(changes);
                self.tidy();
                return Ok(());
            }
            Err(fault) => fault,
        };
        // What was to be made visible is gone, whatever the file says and whatever files there are of it.
        let new = changes.add.snapshots.keys().filter(|id| !self.contents.snapshots.contains_key(id));
        self.contents.gone.extend(new.map(|id| (*id, ())));
        // Others are not to see it, either. If this fails too, the next change does it.
        if let Err((again, _)) = self.write_anew() {
            tracing::debug!(%again, "the database could not be made anew");
        }
        Err(fault)
    }

    /// The same for what opening has found. It was there before, so nothing of it is gone if this fails, and a database
    /// that is made anew is never there without it. On a full disk it is known from now on, and the first change that
    /// finds room writes it.
    pub(crate) fn note(&mut self, changes: &Changes) -> Result<(), Fault> {
        let outcome = if self.renew {
            self.contents.change(changes);
            self.write_anew().map_err(|(fault, _)| fault)
        } else {
            let outcome = self.append(changes);
            self.renew = outcome.is_err();
            self.contents.change(changes);
            outcome
        };
        match outcome {
            Err(fault) if fault.kind() == ErrorKind::NoSpace => {
                tracing::warn!(path = %self.path.display(), "the disk is full: the database can't be put right now");
                Ok(())
            }
            other => other,
        }
    }

    fn append(&mut self, changes: &Changes) -> Result<(), Fault> {
        let path = &self.path;
        let missing = || Fault::damaged(path, "the file is missing");
        let journal = self.journal.as_mut().ok_or_else(missing)?;
        let frame = frames::frame(journal.salt, journal.end, changes);
        let frame = frame.ok_or_else(|| Fault::damaged(path, "a change is too large for it"))?;
        let to = journal.end + frame.len() as u64;
        let mut write = || {
            let writer = match &mut journal.writer {
                Some(writer) => writer,
                None => journal.writer.insert(self.disk.open(path, true)?),
            };
            // Somebody may have died in the middle of writing.
            if writer.bytes()? > journal.end {
                writer.set_bytes(journal.end)?;
            }
            writer.write_at(journal.end, &frame)?;
            writer.sync()
        };
        match write() {
            Ok(()) => {
                journal.end = to;
                Ok(())
            }
            Err(error) => {
                self.failed = Some(Failed { number: journal.number, to });
                Err(error).during("write", path)
            }
        }
    }

    /// Writes the journal anew if it has grown far.
    fn tidy(&mut self) {
        if self.journal.as_ref().is_none_or(|journal| journal.end < journal.renew_at) {
            return;
        }
        if let Err((error, replaced)) = self.write_anew() {
            tracing::warn!(%error, "the database could not be tidied");
            match &mut self.journal {
                // It is as good as before.
                Some(journal) if !replaced => journal.renew_at = journal.end * 2,
                _ => self.renew = true,
            }
        }
    }

    /// A new file with what was acknowledged. With an error: whether it is there all the same, but may not last.
    fn write_anew(&mut self) -> Result<(), (Fault, bool)> {
        let prepare = || {
            let mut salt = [0; 16];
            getrandom::fill(&mut salt).map_err(|error| Fault::Random { reason: error.to_string() })?;
            let salt = Salt(salt);
            let all = Changes { add: self.contents.clone(), ..Changes::default() };
            let frame = frames::frame(salt, HEADER_BYTES as u64, &all);
            let mut bytes = frames::header(salt);
            bytes.extend(frame.ok_or_else(|| Fault::damaged(&self.path, "it is too large"))?);
            let file =
                TemporaryFile::create(&self.disk, self.layout.temporaries().join(new_name("journal")?))?;
            file.file().write_at(0, &bytes).during("write", file.path())?;
            file.file().sync().during("sync", file.path())?;
            Ok((salt, file, bytes.len() as u64))
        };
        let (salt, file, end) = prepare().map_err(|fault| (fault, false))?;
        file.rename(&self.path).map_err(|fault| (fault, false))?;
        self.journal = None;
        let mut finish = || {
            if let Some(folder) = self.path.parent() {
                self.disk.sync_folder(folder).during("sync", folder)?;
            }
            let file = self.disk.open(&self.path, false).during("open", &self.path)?;
            self.journal = Some(Journal::new(file, &self.path, salt, (end, end))?);
            (self.renew, self.failed) = (false, None);
            Ok(())
        };
        finish().map_err(|fault| (fault, true))
    }

    /// Reads everything again, for comparing. The caller holds the commit lock.
    pub(crate) fn load(&self) -> Result<Contents, String> {
        match load(self.disk.as_ref(), &self.path) {
            Ok(Loaded::Whole(_, contents)) => Ok(contents),
            Ok(Loaded::Missing) => Err("the file is missing".to_owned()),
            Ok(Loaded::Damaged(reason)) => Err(reason),
            Err(fault) => Err(crate::error_chain(&fault)),
        }
    }
}
