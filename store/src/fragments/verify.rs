//! Verifying what is held, as a part of a run that verifies the store.

use sustain_proto::ServiceName;

use super::reader::check_all;
use super::record::Key;
use super::table::Place;
use super::{FragmentError, Fragments, Inner};
use crate::parallel::for_each_batch;
use crate::store::Store;
use crate::verify::{Depth, Scope, VerifyError};
use crate::verify_run::Run;
use crate::{Fault, VerifyOptions, error_chain};

/// Records that a run reads.
pub(crate) struct ToVerify {
    fragments: Fragments,
    records: Vec<(ServiceName, Key, Place)>,
}

impl ToVerify {
    /// What the scope has of fragments, if there are any.
    pub(crate) fn choose(store: &Store, options: &VerifyOptions) -> Result<Option<Self>, VerifyError> {
        let service = match &options.scope {
            Scope::Everything => None,
            Scope::Service(service) => Some(service),
            Scope::Snapshot(_) => return Ok(None),
        };
        let Some(looked) = store.look_at_fragments().map_err(as_fault)? else { return Ok(None) };
        let fragments = if options.set_aside {
            match store.fragments() {
                // Their keeper finds what is damaged when it reads it.
                Err(FragmentError::Busy { .. }) => looked,
                kept => kept.map_err(as_fault)?,
            }
        } else {
            looked
        };
        let mut records = Vec::new();
        for (name, shelf) in fragments.0.shelves().iter() {
            if service.is_none_or(|service| service == name) {
                records.extend(shelf.records.iter().map(|(key, place)| (name.clone(), *key, *place)));
            }
        }
        if let Depth::Sample(how_many) = options.depth {
            let count = how_many.of(records.len() as u64) as usize;
            let drawn = |place: &Place| {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&options.seed.to_le_bytes()).update(place.fragment.as_bytes());
                *hasher.finalize().as_bytes()
            };
            records.sort_by_cached_key(|(_, _, place)| drawn(place));
            records.truncate(count);
        }
        Ok(Some(Self { fragments, records }))
    }

    /// Bytes that are read.
    pub(crate) fn bytes(&self) -> u64 {
        self.records.iter().map(|(_, key, place)| bytes_read(key, place)).sum()
    }
}

/// As [`check_all`] counts them.
fn bytes_read(key: &Key, place: &Place) -> u64 {
    if key.index.is_some() { place.fragment_bytes } else { u64::from(place.sheet_bytes) }
}

fn as_fault(error: FragmentError) -> VerifyError {
    match error {
        FragmentError::Fault(fault) => fault.into(),
        other => {
            let source = std::io::Error::other(error_chain(&other));
            Fault::Disk { doing: "open", path: "fragments".into(), source }.into()
        }
    }
}

impl Run<'_> {
    /// Compares fragments with their ids, and sets aside those that are damaged.
    pub(crate) fn fragments(&self, what: &ToVerify) -> Result<(), VerifyError> {
        for bad in what.fragments.bad().iter().filter(|_| self.options.scope == Scope::Everything) {
            self.blame(&bad.path, &bad.reason);
        }
        let count = what.records.len() as u64;
        let make = || Ok::<_, VerifyError>(());
        for_each_batch(self.options.pace, count, 1, make, |(), range| {
            let (service, key, place) = &what.records[range.start as usize];
            self.fragment(&what.fragments.0, service, (*key, *place))
        })?;
        Ok(())
    }

    fn fragment(
        &self,
        inner: &Inner,
        service: &ServiceName,
        record: (Key, Place),
    ) -> Result<(), VerifyError> {
        let (key, place) = record;
        let path = self.shared.layout.segment(service, place.segment);
        let opened = self.shared.disk.open(&path, false).map_err(|error| Fault::reading(&path, error));
        let read = opened.map_err(VerifyError::from).and_then(|file| {
            check_all(&path, file.as_ref(), &place.header(&key), place.at, |part| self.done(part))
        });
        match read {
            Ok(()) => {
                self.good_fragment();
                Ok(())
            }
            Err(VerifyError::Fault(fault)) if fault.is_unreadable() => {
                // It may have been dropped meanwhile.
                if inner.is_held(service, &record) {
                    let what = match key.index {
                        Some(index) => format!("fragment {index}, {}", place.fragment.short()),
                        None => "the sheet".to_owned(),
                    };
                    self.blame_also(&path, &format!("{what}, of pack {} is damaged", place.pack.id.short()));
                    if self.options.set_aside {
                        inner.doubt(service, record, fault);
                    }
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
