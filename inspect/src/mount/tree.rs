//! Which files and folders there are: the store's snapshots, as they are at the moment of asking.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use sustain_proto::{Manifest, ServiceName, SnapshotId};
use sustain_store::{ReadError, SnapshotInfo, Store};

use super::node::{Kind, LATEST, MANIFEST, Node, ROOT, Shown, number_of};
use crate::limits;

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

/// A manifest as its file shows it.
#[derive(Serialize)]
struct Described<'a> {
    id: SnapshotId,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

/// What has this name in a folder; none if nothing has, or it is no folder.
pub(crate) fn lookup(store: &Store, folder: &Node, name: &str) -> Result<Option<Node>, ReadError> {
    match folder {
        Node::Root => {
            let Ok(service) = ServiceName::new(name) else { return Ok(None) };
            Ok(store.services()?.contains(&service).then_some(Node::Service(service)))
        }
        Node::Service(service) if name == LATEST => {
            Ok(newest(store, service)?.map(|_| Node::Latest(service.clone())))
        }
        Node::Service(service) => snapshot(store, service, name),
        Node::Snapshot(shown) if name == MANIFEST => Ok(Some(Node::Manifest(shown.clone(), describe(shown)))),
        Node::Snapshot(shown) => {
            let regions = &shown.manifest.regions;
            let number = regions.iter().position(|region| region.name.as_str() == name);
            Ok(number.map(|number| Node::Region(shown.clone(), number)))
        }
        _ => Ok(None),
    }
}

/// A snapshot by its id; by a former id or the beginning of one it is a link to that.
fn snapshot(store: &Store, service: &ServiceName, name: &str) -> Result<Option<Node>, ReadError> {
    // Names are looked up that were never meant as a snapshot's, such as `.git`; those with `@` are selectors.
    if !name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    let mut tries = 1;
    let (id, manifest) = loop {
        let Ok(id) = store.resolve(name) else { return Ok(None) };
        match store.manifest(id) {
            // A rebase came in between, and has renamed it.
            Err(ReadError::NotFound { .. }) if tries < limits::CHOICES_MAX => tries += 1,
            Err(ReadError::NotFound { .. }) => return Ok(None),
            other => break (id, other?.0),
        }
    };
    if manifest.service != *service {
        return Ok(None);
    }
    if id.to_string() != name {
        return Ok(Some(Node::Alias(service.clone(), name.to_owned())));
    }
    Ok(Some(Node::Snapshot(Arc::new(Shown { id, manifest, data_bytes: OnceLock::new() }))))
}

/// Where a link leads; none if it is none, or leads nowhere by now.
pub(crate) fn target(store: &Store, link: &Node) -> Result<Option<String>, ReadError> {
    match link {
        Node::Latest(service) => Ok(newest(store, service)?.map(|newest| newest.id.to_string())),
        Node::Alias(_, name) => match store.resolve(name) {
            Ok(id) => Ok(Some(id.to_string())),
            Err(ReadError::NotFound { .. } | ReadError::Ambiguous { .. }) => Ok(None),
            Err(error) => Err(error),
        },
        _ => Ok(None),
    }
}

/// The entries of a folder.
pub(crate) fn entries(store: &Store, folder: &Node) -> Result<Vec<Entry>, ReadError> {
    let own = folder.number();
    let (above, children) = match folder {
        Node::Root => {
            let services = store.services()?.into_iter();
            (ROOT, services.map(|service| (service.to_string(), Kind::Folder)).collect())
        }
        Node::Service(service) => {
            let snapshots = store.snapshots(Some(service))?;
            let latest = (!snapshots.is_empty()).then(|| (LATEST.to_owned(), Kind::Link));
            let folders = snapshots.iter().map(|snapshot| (snapshot.id.to_string(), Kind::Folder));
            (ROOT, folders.chain(latest).collect())
        }
        Node::Snapshot(shown) => {
            let regions = shown.manifest.regions.iter().map(|region| (region.name.to_string(), Kind::File));
            let service = number_of(shown.manifest.service.as_str());
            (service, regions.chain([(MANIFEST.to_owned(), Kind::File)]).collect::<Vec<_>>())
        }
        _ => (own, Vec::new()),
    };
    let path = folder.path();
    let mut entries = vec![
        Entry { number: own, kind: Kind::Folder, name: ".".to_owned() },
        Entry { number: above, kind: Kind::Folder, name: "..".to_owned() },
    ];
    for (name, kind) in children {
        if !is_plain(&name) {
            tracing::error!(folder = path, name, "a name that is no file's name is left out");
            continue;
        }
        let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        entries.push(Entry { number: number_of(&below), kind, name });
    }
    Ok(entries)
}

/// Whether a name can be a file's. All names and ids of a store can: this is the second look.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// When what a node shows was last changed: a snapshot's files and folder when it was taken, a service with its newest
/// snapshot, and the top folder with the newest of all. Without any it is the beginning of 1970.
pub(crate) fn changed(store: &Store, node: &Node) -> Result<SystemTime, ReadError> {
    let time_ms = match node {
        Node::Snapshot(shown) | Node::Manifest(shown, _) | Node::Region(shown, _) => shown.manifest.time_ms,
        Node::Service(service) | Node::Latest(service) | Node::Alias(service, _) => {
            newest(store, service)?.map_or(0, |newest| newest.time_ms)
        }
        Node::Root => {
            let all = store.snapshots(None)?;
            all.iter().map(|snapshot| snapshot.time_ms).max().unwrap_or(0)
        }
    };
    // A manifest may say anything; what is past all calendars counts as their beginning.
    let since = Duration::from_millis(time_ms);
    Ok(SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// The newest snapshot of a service that is whole.
fn newest(store: &Store, service: &ServiceName) -> Result<Option<SnapshotInfo>, ReadError> {
    Ok(store.snapshots(Some(service))?.pop())
}

fn describe(shown: &Shown) -> Arc<[u8]> {
    let described = Described { id: shown.id, manifest: &shown.manifest };
    // Names and numbers only, which can always be written.
    let mut text = serde_json::to_vec_pretty(&described).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::is_plain;
    use sustain_proto::{RegionName, ServiceName};

    #[test]
    fn hostile_names_are_refused_twice() {
        for name in ["", ".", "..", "a/b", "/etc", ".hidden", "a\0b", "../../x"] {
            assert!(!is_plain(name), "{name:?}");
            assert!(ServiceName::new(name).is_err() && RegionName::new(name).is_err(), "{name:?}");
        }
        assert!(is_plain("disk0") && is_plain("manifest.json") && is_plain("latest"));
    }
}
