//! What `snapctl` does with a store: the same on a folder of one's own and behind a daemon's admin API.
//!
//! Every function blocks. Failures carry the exit code and, where one helps, the next command to try.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId};
use sustain_store::{
    DirectoryTarget, FileSource, Progress, PushError, PushLineage, PushReport, PushRequest, ReadError,
    RegionSource, SnapshotReader, Store,
};

use crate::watched::Watched;
use crate::{clock, limits, parse_changed_list};

pub(crate) use crate::failure::VERIFY_HINT;
pub use crate::failure::{Failure, exit_code};

/// A region to push: a name and the file with its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionFile {
    /// The region's name.
    pub name: RegionName,
    /// The file.
    pub path: PathBuf,
    /// A file with the list of what changed in it since the service's newest snapshot, which
    /// [`parse_changed_list`] reads. Without one the file is read whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<PathBuf>,
}

/// What is pushed.
#[derive(Debug, Clone, Copy)]
pub struct PushFiles<'a> {
    /// Whose state it is.
    pub service: &'a ServiceName,
    /// Its regions.
    pub regions: &'a [RegionFile],
    /// The snapshot that the lists of changes count from; it must be the service's newest. None: it is not checked.
    pub since: Option<&'a str>,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PushOutput {
    /// The store's report.
    #[serde(flatten)]
    pub report: PushReport,
    /// Regions that the snapshot which this one continues has, and this one has not.
    pub regions_left_out: Vec<RegionName>,
    /// How long it took.
    pub seconds: f64,
}

/// What a gather did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GatherOutput {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Bytes of the regions that were written.
    pub bytes_out: u64,
    /// Bytes that came from other nodes.
    pub bytes_fetched: u64,
    /// Bytes that had come before, in a gathering that did not come to its end.
    pub bytes_resumed: u64,
    /// Nodes that sent something else than they were asked for.
    pub liars: Vec<NodeId>,
    /// Newer snapshots that can't be had whole, the newest first.
    pub passed_over: Vec<PassedOver>,
    /// How long it took.
    pub seconds: f64,
}

/// A snapshot that was not gathered though it is newer than the one that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its number, if it is known.
    pub seq: Option<u64>,
    /// Why it can't be had.
    pub reason: String,
}

/// Pushes files as a snapshot that continues the service's newest.
///
/// Where a list tells what changed in a file, only that is read of it, and the rest is taken from the newest snapshot
/// unseen: what changed and is not listed stays, in this snapshot and in later ones, as it was there.
///
/// # Errors
/// If a file can't be read, a list is none of this file's, there is nothing that a list could count from, or the
/// store can't take the snapshot.
pub fn push(
    store: &Store,
    files: &PushFiles<'_>,
    node: NodeId,
    progress: &dyn Progress,
) -> Result<PushOutput, Failure> {
    let started = Instant::now();
    let sources = files.regions.iter().map(open_region).collect::<Result<Vec<_>, _>>()?;
    let bytes = |region: &RegionFile, source: &FileSource| read_list(region, source.bytes());
    let lists = files.regions.iter().zip(&sources).map(|(region, source)| bytes(region, source));
    let lists = lists.collect::<Result<Vec<_>, _>>()?;
    let is_whole = lists.iter().all(Option::is_none);
    progress.total(sources.iter().map(RegionSource::bytes).sum());
    let regions: Vec<_> = files.regions.iter().map(|region| &region.name).zip(sources).zip(lists).collect();
    let mut tries = 1;
    let (report, regions_left_out) = loop {
        match try_push(store, files, &regions, node, progress) {
            // Another process has rebased the service, or what is pushed was to be the first. Lists of changes count
            // from a snapshot that may not be the newest any more: whoever made them has to look.
            Err(Trouble::Store(PushError::Overtaken { .. }))
                if is_whole && tries < limits::PUSH_TRIES_MAX =>
            {
                tries += 1;
            }
            Err(Trouble::Store(error)) => {
                let failure = Failure::of(&error, error.kind());
                return Err(match error {
                    PushError::NothingToContinue { .. } => {
                        failure.with_hint("push the file whole, without a list of changes")
                    }
                    _ => failure,
                });
            }
            Err(Trouble::Other(failure)) => return Err(failure),
            Ok(pushed) => break pushed,
        }
    };
    Ok(PushOutput { report, regions_left_out, seconds: started.elapsed().as_secs_f64() })
}

/// Why a push did not come to its end.
enum Trouble {
    Store(PushError),
    Other(Failure),
}

impl From<PushError> for Trouble {
    fn from(error: PushError) -> Self {
        Self::Store(error)
    }
}

/// A region's name, its bytes, and what changed of them if that is known.
type Region<'a> = ((&'a RegionName, FileSource), Option<Vec<Range<u64>>>);

fn try_push(
    store: &Store,
    files: &PushFiles<'_>,
    regions: &[Region<'_>],
    node: NodeId,
    progress: &dyn Progress,
) -> Result<(PushReport, Vec<RegionName>), Trouble> {
    let PushFiles { service, since, .. } = *files;
    let since = since.map(|since| resolve(store, since)).transpose().map_err(Trouble::Other)?;
    let lineage = PushLineage::ContinueNewest { node, nonce: rand::random() };
    let request = PushRequest { service: service.clone(), lineage, time_ms: clock::wall_ms() };
    let mut push = store.begin_push(request)?;
    if since.is_some() && push.continued() != since {
        return Err(Trouble::Other(
            Failure::new(2, format!("the lists count from another snapshot than the newest of {service}"))
                .with_hint("without lists of changes the files are read whole"),
        ));
    }
    let before = push.continued().and_then(|id| store.manifest(id).ok());
    let before = before.into_iter().flat_map(|(manifest, _)| manifest.regions).map(|region| region.name);
    let left_out = before.filter(|name| !regions.iter().any(|((pushed, _), _)| *pushed == name)).collect();
    for ((name, source), changed) in regions {
        let source = Watched::new(source, progress);
        let ingested = match changed {
            Some(changed) => push.ingest_changes(name, &source, changed),
            None => push.ingest(name, &source),
        };
        if progress.cancelled() {
            return Err(Trouble::Other(Failure::new(130, "interrupted; nothing was stored")));
        }
        ingested?;
        source.finish();
    }
    Ok((push.commit()?, left_out))
}

fn open_region(region: &RegionFile) -> Result<FileSource, Failure> {
    FileSource::open(&region.path).map_err(|error| {
        let what = format!("can't read {} for region {}: {error}", region.path.display(), region.name);
        Failure::new(1, what).with_hint(match error.kind() {
            io::ErrorKind::InvalidInput => "copy what it holds to a file, and push that",
            _ => "a region is given as NAME=FILE, such as --region ram=memory.img",
        })
    })
}

/// The ranges that a region's list names, if it has one.
fn read_list(region: &RegionFile, region_bytes: u64) -> Result<Option<Vec<Range<u64>>>, Failure> {
    let Some(path) = &region.changed else { return Ok(None) };
    let failed = |exit_code, error: &dyn std::fmt::Display| {
        let what =
            format!("can't take {} for a list of what changed in {}: {error}", path.display(), region.name);
        Failure::new(exit_code, what)
    };
    let file = File::open(path).map_err(|error| failed(1, &error).with_hint(LIST_HINT))?;
    let mut text = String::new();
    let read = file.take(limits::CHANGED_LIST_BYTES_MAX + 1).read_to_string(&mut text);
    // What is no text is no list either; anything else is the disk's.
    let code = |error: &io::Error| if error.kind() == io::ErrorKind::InvalidData { 2 } else { 1 };
    read.map_err(|error| failed(code(&error), &error).with_hint(LIST_HINT))?;
    if text.len() as u64 > limits::CHANGED_LIST_BYTES_MAX {
        let bytes_max = limits::CHANGED_LIST_BYTES_MAX;
        return Err(failed(2, &format_args!("it has more than {bytes_max} bytes")).with_hint(LIST_HINT));
    }
    let ranges = parse_changed_list(&text, region_bytes);
    ranges.map(Some).map_err(|error| failed(2, &error).with_hint(LIST_HINT))
}

const LIST_HINT: &str = "a list is a file: each of its lines is the offset and the length of a range in bytes, such as \
    `65536 4096`; without a list the region is read whole";

/// Finds the snapshot that a text names: an id, the beginning of one, or `SERVICE@latest`, `SERVICE@-1`.
///
/// # Errors
/// If there is none, or several.
pub fn resolve(store: &Store, selector: &str) -> Result<SnapshotId, Failure> {
    store.resolve(selector).map_err(|error| {
        let failure = Failure::of(&error, error.kind());
        match &error {
            ReadError::NotFound { .. } | ReadError::Selector { .. } => {
                failure.with_hint(what_there_is(store, Some(selector)))
            }
            ReadError::Ambiguous { .. } => failure.with_hint("give more of its digits"),
            _ => failure,
        }
    })
}

/// A hint for whoever named a service or snapshot that is not here.
pub(crate) fn what_there_is(store: &Store, selector: Option<&str>) -> String {
    let services = store.services().unwrap_or_default();
    let asked = selector.map(|selector| selector.split('@').next().unwrap_or_default());
    if let Some(asked) = services.iter().find(|service| Some(service.as_str()) == asked) {
        return format!("`snapctl log {asked}` lists its snapshots; the newest is {asked}@latest");
    }
    let Some(first) = services.first() else {
        return "the store holds no snapshot yet: `snapctl push SERVICE --region NAME=FILE` takes the first one"
            .to_owned();
    };
    let mut names: Vec<&str> =
        services.iter().map(ServiceName::as_str).take(limits::SERVICES_NAMED_MAX).collect();
    if services.len() > names.len() {
        names.push("...");
    }
    let lists = if names.len() == 1 { "lists them" } else { "lists those of one" };
    format!("here are snapshots of: {}; `snapctl log {first}` {lists}", names.join(", "))
}

/// Does something with the snapshot that a text names. Where another process has dropped or renamed it before that was
/// done, the text is looked up again: it may name another one now, or none.
///
/// # Errors
/// If there is none, or several, and as `work` says.
pub fn with_snapshot<T>(
    store: &Store,
    selector: &str,
    mut work: impl FnMut(SnapshotId) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut tries = 1;
    loop {
        let snapshot = resolve(store, selector)?;
        match work(snapshot) {
            // Its files may have gone with it, if the disk is so full that nobody could be told that they are read.
            Err(failure)
                if [10, 13].contains(&failure.exit_code)
                    && tries < limits::CHOICES_MAX
                    && store.manifest(snapshot).is_err() =>
            {
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Opens the snapshot that a text names.
///
/// # Errors
/// If there is none, or several, or its index is damaged.
pub fn open(store: &Store, selector: &str) -> Result<SnapshotReader, Failure> {
    with_snapshot(store, selector, |id| {
        store.open_snapshot(id).map_err(|error| Failure::of(&error, error.kind()))
    })
}

/// Writes a snapshot's regions into a folder, all or nothing.
///
/// # Errors
/// If the snapshot is not here, is damaged, or the folder can't be written.
pub fn gather(
    store: &Store,
    snapshot: SnapshotId,
    to: &Path,
    progress: &dyn Progress,
) -> Result<GatherOutput, Failure> {
    let started = Instant::now();
    if to.metadata().is_ok_and(|found| !found.is_dir()) {
        return Err(Failure::new(2, format!("{} is no folder", to.display()))
            .with_hint("name a folder: each region becomes a file in it, and it is made if need be"));
    }
    let target = DirectoryTarget::new(to);
    let report = store.restore(snapshot, &target, progress).map_err(|error| match error {
        sustain_store::RestoreError::Cancelled => Failure::new(130, "interrupted; nothing was written"),
        error => Failure::of(&error, error.kind()),
    })?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(GatherOutput {
        snapshot: report.snapshot,
        bytes_out: report.bytes_out,
        bytes_fetched: 0,
        bytes_resumed: 0,
        liars: Vec::new(),
        passed_over: Vec::new(),
        seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was exit code 10: a rebase had come between choosing the newest snapshot and reading it.
    #[test]
    fn a_snapshot_that_goes_before_it_is_read_is_chosen_anew() {
        let folder = tempfile::tempdir().unwrap();
        let options = sustain_store::StoreOptions { create: true, ..Default::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        let service: ServiceName = "notes".parse().unwrap();
        let path = folder.path().join("ram");
        let regions = [RegionFile { name: "ram".parse().unwrap(), path: path.clone(), changed: None }];
        let files = PushFiles { service: &service, regions: &regions, since: None };
        for text in ["one", "two"] {
            std::fs::write(&path, text).unwrap();
            push(&store, &files, NodeId::from_bytes([7; 32]), &sustain_store::NoProgress).unwrap();
        }
        let out = folder.path().join("out");
        let mut is_first = true;
        let gathered = with_snapshot(&store, "notes@latest", |id| {
            if std::mem::take(&mut is_first) {
                store.rebase(&service, None).unwrap();
            }
            gather(&store, id, &out, &sustain_store::NoProgress)
        });
        assert_eq!(gathered.unwrap().snapshot, store.resolve("notes@latest").unwrap());
        assert_eq!(std::fs::read_to_string(out.join("ram")).unwrap(), "two");
        let gone =
            with_snapshot(&store, "notes@-1", |id| gather(&store, id, &out, &sustain_store::NoProgress));
        assert_eq!(gone.unwrap_err().exit_code, 10);
    }
}
