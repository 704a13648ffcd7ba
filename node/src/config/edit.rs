//! Changing a configuration file: services come and go, and what people wrote around them stays.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sustain_proto::ServiceName;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

use super::load::{ConfigError, parse};
use super::service::ServiceConfig;

/// Why a configuration is not changed. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// It is no configuration as it is.
    #[error("{path} can't be changed as it is")]
    Before {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ConfigError>,
    },
    /// It would be no configuration afterwards.
    #[error("the change is refused")]
    After {
        /// Why.
        source: Box<ConfigError>,
    },
    /// There is a service of this name already.
    #[error("{path} has a service {service} already")]
    Exists {
        /// The file.
        path: PathBuf,
        /// The service.
        service: ServiceName,
    },
    /// There is no such service.
    #[error("{path} has no service {service}")]
    Absent {
        /// The file.
        path: PathBuf,
        /// The service.
        service: ServiceName,
    },
    /// Something that is a configuration all the same, but written in a way that can't be edited.
    #[error("{path}: {what}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// What.
        what: &'static str,
    },
    /// It can't be written.
    #[error("can't write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Adds a service to a configuration's text, as its last one.
///
/// # Errors
/// If there is one of that name, or the result would be refused.
pub fn add_service(text: &str, path: &Path, service: &ServiceConfig) -> Result<String, EditError> {
    let mut document = open(text, path)?;
    let layout = |what| EditError::Layout { path: path.to_owned(), what };
    let services = services(&mut document).ok_or_else(|| layout(INLINE))?;
    if position(services, &service.name).is_some() {
        return Err(EditError::Exists { path: path.to_owned(), service: service.name.clone() });
    }
    let table = toml_edit::ser::to_document(service).ok().map(|document| document.as_table().clone());
    let mut table = table.ok_or_else(|| layout("the service can't be put into words"))?;
    spread_out(&mut table);
    table.decor_mut().set_prefix("\n");
    services.push(table);
    close(&document, path)
}

/// Removes a service from a configuration's text.
///
/// # Errors
/// If there is none of that name, or the result would be refused.
pub fn remove_service(text: &str, path: &Path, service: &ServiceName) -> Result<String, EditError> {
    let mut document = open(text, path)?;
    let layout = |what| EditError::Layout { path: path.to_owned(), what };
    let services = services(&mut document).ok_or_else(|| layout(INLINE))?;
    let absent = || EditError::Absent { path: path.to_owned(), service: service.clone() };
    let found = position(services, service).ok_or_else(absent)?;
    services.remove(found);
    close(&document, path)
}

/// Has a service of a configuration's text have a secret of its own, in this file.
///
/// # Errors
/// If there is none of that name, or the result would be refused.
pub fn give_secret(text: &str, path: &Path, service: &ServiceName, file: &str) -> Result<String, EditError> {
    let mut document = open(text, path)?;
    let layout = |what| EditError::Layout { path: path.to_owned(), what };
    let services = services(&mut document).ok_or_else(|| layout(INLINE))?;
    let absent = || EditError::Absent { path: path.to_owned(), service: service.clone() };
    let found = position(services, service).and_then(|found| services.get_mut(found)).ok_or_else(absent)?;
    found.insert("secret-file", toml_edit::value(file));
    close(&document, path)
}

const INLINE: &str = "`services` is written as one value; write each service as a table `[[services]]`";

fn open(text: &str, path: &Path) -> Result<DocumentMut, EditError> {
    let before = |source| EditError::Before { path: path.to_owned(), source: Box::new(source) };
    parse(text, path).map_err(before)?;
    // What the one parser takes, the other does too.
    let layout = |_| EditError::Layout { path: path.to_owned(), what: "it can't be edited" };
    text.parse::<DocumentMut>().map_err(layout)
}

fn close(document: &DocumentMut, path: &Path) -> Result<String, EditError> {
    let text = document.to_string();
    parse(&text, path).map_err(|source| EditError::After { source: Box::new(source) })?;
    Ok(text)
}

/// The services' tables; none if they are written as an inline value that holds some.
fn services(document: &mut DocumentMut) -> Option<&mut ArrayOfTables> {
    let table = document.as_table_mut();
    if table.get("services").and_then(Item::as_array).is_some_and(toml_edit::Array::is_empty) {
        // Taken out, so that the tables come last and not where the empty value stood.
        table.remove("services");
    }
    let none = || Item::ArrayOfTables(ArrayOfTables::new());
    table.entry("services").or_insert_with(none).as_array_of_tables_mut()
}

fn position(services: &ArrayOfTables, name: &ServiceName) -> Option<usize> {
    let named = |table: &Table| table.get("name").and_then(Item::as_str) == Some(name.as_str());
    services.iter().position(named)
}

/// Turns inline tables, and lists of them, into tables with headers, which people can read and comment.
fn spread_out(table: &mut Table) {
    for (_, item) in table.iter_mut() {
        let is_tables =
            item.as_array().is_some_and(|list| list.iter().all(toml_edit::Value::is_inline_table));
        let made = match std::mem::take(item) {
            inner if inner.is_inline_table() => inner.into_table().map(Item::Table),
            list if is_tables => list.into_array_of_tables().map(Item::ArrayOfTables),
            other => Err(other),
        };
        // Whatever is neither stays what it is.
        *item = made.unwrap_or_else(|other| other);
    }
}

/// Replaces a configuration file, all or nothing, with the owner and mode that it had.
///
/// # Errors
/// If it can't be written; then it is as it was.
pub fn save(path: &Path, text: &str) -> Result<(), EditError> {
    let failed = |source| EditError::Write { path: path.to_owned(), source };
    // A link stays a link: what it leads to is replaced.
    let place = fs::canonicalize(path).map_err(failed)?;
    let metadata = fs::metadata(&place).map_err(failed)?;
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = place.with_file_name(name);
    let written = write_new(&temporary, text, &metadata).and_then(|()| fs::rename(&temporary, &place));
    if let Err(error) = written {
        // Nothing better can be done about a file that can't be removed.
        let _ = fs::remove_file(&temporary);
        return Err(failed(error));
    }
    let folder = place.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn write_new(path: &Path, text: &str, like: &fs::Metadata) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    // The service's user can go on reading it when root has changed it.
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
        std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o777))?;
    file.sync_all()
}
