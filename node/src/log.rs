//! `snapctl log`: the snapshots of a service, with what is wrong with those that can't be read.

use serde::Serialize;
use sustain_proto::ServiceName;
use sustain_proto::human::counted;
use sustain_store::{BadPack, SnapshotInfo, Store};

use crate::operations::{Failure, VERIFY_HINT, what_there_is};

/// A snapshot in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// The snapshot.
    #[serde(flatten)]
    pub info: SnapshotInfo,
    /// What is missing or damaged, so that it can't be read, or only in parts; none if it is whole.
    pub problem: Option<String>,
}

/// The service's snapshots, oldest first, also those that can't be read.
///
/// # Errors
/// If there are none.
pub fn log(store: &Store, service: &ServiceName) -> Result<Vec<Listed>, Failure> {
    let known = store.snapshots_known(service);
    if known.is_empty() {
        return Err(nothing(store, service));
    }
    let bad_packs = if known.iter().all(|(_, whole)| *whole) { Vec::new() } else { store.bad_packs() };
    let listed = |(info, whole): (SnapshotInfo, bool)| {
        let problem = (!whole).then(|| problem(&info, &bad_packs));
        Listed { info, problem }
    };
    Ok(known.into_iter().map(listed).collect())
}

/// What keeps a snapshot from being whole, in a few words.
fn problem(info: &SnapshotInfo, bad_packs: &[BadPack]) -> String {
    let mut lacking = bad_packs.iter().filter(|bad| bad.snapshots.contains(&info.id));
    let Some(first) = lacking.next() else {
        return match info.base {
            Some(base) => format!("its base {} is not here as it should be", base.short()),
            None => "a file that it needs is not here as it should be".to_owned(),
        };
    };
    let aside = if first.set_aside { " (set aside)" } else { "" };
    let mut text = format!("pack {}{aside}: {}", first.id.short(), first.reason);
    let more = lacking.count() as u64;
    if more > 0 {
        text.push_str(&format!("; and {} besides", counted(more, "pack", "packs")));
    }
    text
}

/// Where no snapshot of a service is known: whether that may be a damaged one's fault.
fn nothing(store: &Store, service: &ServiceName) -> Failure {
    let is_manifest = |end: &std::ffi::OsStr| end == "manifest";
    let mut bad = store.opened().bad.iter();
    match bad.find(|bad| bad.path.extension().is_some_and(is_manifest)) {
        Some(bad) => {
            let (path, reason) = (bad.path.display(), &bad.reason);
            Failure::new(13, format!("no snapshot of {service} can be read: {path} is bad: {reason}"))
                .with_hint(VERIFY_HINT)
        }
        None => Failure::new(10, format!("there is no snapshot of {service} here"))
            .with_hint(what_there_is(store, None)),
    }
}
