//! The claim and the catalogs as they are kept in files.

use std::sync::Arc;

use sustain_proto::{Format, NodeId, ServiceName, Term};

use super::error::DepotError;
use super::files::{Folder, Found};
use crate::keeper::{Catalog, Claim};
use crate::limits;

const CLAIM: Format = Format { name: "claim", magic: *b"SUCl", version: 1, bytes_max: 4 << 10 };
const CATALOG: Format =
    Format { name: "catalog", magic: *b"SUCa", version: 1, bytes_max: limits::CATALOG_FILE_BYTES_MAX };

const CLAIM_NAME: &str = "claim";
const CATALOG_END: &str = ".catalog";

/// A line, which a catalog is of.
pub(super) use crate::keeper::Line;

/// What was found.
#[derive(Default)]
pub(super) struct Records {
    pub(super) claim: Option<Claim>,
    pub(super) catalogs: Vec<Arc<Catalog>>,
    /// Lines whose catalogs are damaged.
    pub(super) damaged: Vec<Line>,
}

/// The name of a line's file: the service, and the term's counter, node and nonce.
fn catalog_name(Line { service, term }: &Line) -> String {
    format!("{service}.{:x}.{}.{:x}{CATALOG_END}", term.counter, term.node, term.nonce)
}

fn line_of(name: &str) -> Option<Line> {
    let mut words = name.strip_suffix(CATALOG_END)?.split('.');
    let service = ServiceName::new(words.next()?).ok()?;
    let counter = u64::from_str_radix(words.next()?, 16).ok()?;
    let node: NodeId = words.next()?.parse().ok()?;
    let nonce = u64::from_str_radix(words.next()?, 16).ok()?;
    words.next().is_none().then_some(Line { service, term: Term { counter, node, nonce } })
}

impl Records {
    /// Reads all of them. Damaged ones are set aside.
    pub(super) fn read(folder: &Folder) -> Result<Self, DepotError> {
        let mut records = Self::default();
        let (names, aside) = folder.names()?;
        records.damaged.extend(aside.iter().filter_map(|name| line_of(name)));
        for name in names {
            let line = line_of(&name);
            if name != CLAIM_NAME && line.is_none() {
                continue;
            }
            let format = if line.is_some() { CATALOG } else { CLAIM };
            let reason = match (folder.read(&name, format.bytes_max)?, &line) {
                (Found::Damaged(reason), _) => reason,
                (Found::Bytes(bytes), None) => match sustain_proto::decode::<Claim>(format, &bytes) {
                    Ok(claim) => {
                        records.claim = Some(claim);
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                (Found::Bytes(bytes), Some(line)) => match sustain_proto::decode::<Catalog>(format, &bytes) {
                    Ok(catalog) if catalog.line() == *line => {
                        records.catalogs.push(Arc::new(catalog));
                        continue;
                    }
                    Ok(_) => "it is another line's".to_owned(),
                    Err(error) => error.to_string(),
                },
            };
            folder.set_aside(&name, &reason)?;
            records.damaged.extend(line);
        }
        Ok(records)
    }
}

/// Replaces the claim.
pub(super) fn write_claim(folder: &Folder, claim: &Claim) -> Result<(), DepotError> {
    let bytes = sustain_proto::encode(CLAIM, claim);
    let bytes = bytes.map_err(|source| DepotError::Encode { what: "the claim".to_owned(), source })?;
    folder.replace(CLAIM_NAME, bytes)
}

/// Replaces a line's catalog.
pub(super) fn write_catalog(folder: &Folder, catalog: &Catalog) -> Result<(), DepotError> {
    let bytes = sustain_proto::encode(CATALOG, catalog);
    let what = || format!("the catalog of {}", catalog.service);
    let bytes = bytes.map_err(|source| DepotError::Encode { what: what(), source })?;
    folder.replace(&catalog_name(&catalog.line()), bytes)
}

/// Removes a line's catalog.
pub(super) fn remove_catalog(folder: &Folder, line: &Line) -> Result<(), DepotError> {
    folder.remove(&catalog_name(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_which_line_it_is() {
        let line = Line {
            service: ServiceName::new("mail-2_x").unwrap(),
            term: Term { counter: 17, node: NodeId::from_bytes([7; 32]), nonce: u64::MAX },
        };
        assert_eq!(line_of(&catalog_name(&line)), Some(line));
        for name in ["claim", ".catalog", "mail.catalog", "mail.1.2.3.catalog", "mail.1.zz.3.catalog.new"] {
            assert_eq!(line_of(name), None, "{name}");
        }
    }
}
