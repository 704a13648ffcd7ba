//! The database's tables, and their rows as values.

use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use sustain_proto::{PackId, SnapshotId};

use super::{Changes, Contents};

/// Boxed: the database's own error type is large.
pub(super) type Trouble = Box<dyn std::error::Error + Send + Sync>;

type Id = &'static [u8; 32];

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Snapshot to its durable level plus one; 0 is not durable.
const SNAPSHOTS: TableDefinition<'_, Id, u64> = TableDefinition::new("snapshots");
const RECEIVED: TableDefinition<'_, Id, u64> = TableDefinition::new("received");
const ALIASES: TableDefinition<'_, Id, Id> = TableDefinition::new("aliases");
const GONE: TableDefinition<'_, Id, ()> = TableDefinition::new("gone");
/// Snapshot to the ids that it replaces, one after the other.
const INTENTS: TableDefinition<'_, Id, &[u8]> = TableDefinition::new("intents");

const VERSION_KEY: &str = "version";
const VERSION: u64 = 1;

pub(super) fn write(database: &Database, changes: &Changes) -> Result<(), Trouble> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(VERSION_KEY, VERSION)?;
    remove(&transaction, &changes.remove)?;
    add(&transaction, &changes.add)?;
    transaction.commit()?;
    Ok(())
}

fn remove(transaction: &WriteTransaction, contents: &Contents) -> Result<(), Trouble> {
    let mut snapshots = transaction.open_table(SNAPSHOTS)?;
    for id in contents.snapshots.keys() {
        snapshots.remove(id.as_bytes())?;
    }
    let mut received = transaction.open_table(RECEIVED)?;
    for id in contents.received.keys() {
        received.remove(id.as_bytes())?;
    }
    let mut aliases = transaction.open_table(ALIASES)?;
    for id in contents.aliases.keys() {
        aliases.remove(id.as_bytes())?;
    }
    let mut gone = transaction.open_table(GONE)?;
    for id in contents.gone.keys() {
        gone.remove(id.as_bytes())?;
    }
    let mut intents = transaction.open_table(INTENTS)?;
    for id in contents.intents.keys() {
        intents.remove(id.as_bytes())?;
    }
    Ok(())
}

fn add(transaction: &WriteTransaction, contents: &Contents) -> Result<(), Trouble> {
    let mut snapshots = transaction.open_table(SNAPSHOTS)?;
    for (id, level) in &contents.snapshots {
        snapshots.insert(id.as_bytes(), level.map_or(0, |level| u64::from(level) + 1))?;
    }
    let mut received = transaction.open_table(RECEIVED)?;
    for (id, order) in &contents.received {
        received.insert(id.as_bytes(), order)?;
    }
    let mut aliases = transaction.open_table(ALIASES)?;
    for (old, new) in &contents.aliases {
        aliases.insert(old.as_bytes(), new.as_bytes())?;
    }
    let mut gone = transaction.open_table(GONE)?;
    for id in contents.gone.keys() {
        gone.insert(id.as_bytes(), ())?;
    }
    let mut intents = transaction.open_table(INTENTS)?;
    for (id, replaced) in &contents.intents {
        let bytes: Vec<u8> = replaced.iter().flat_map(|id| id.as_bytes().iter().copied()).collect();
        intents.insert(id.as_bytes(), bytes.as_slice())?;
    }
    Ok(())
}

pub(super) fn read(database: &Database) -> Result<Contents, Trouble> {
    let transaction = database.begin_read()?;
    let version = transaction.open_table(META)?.get(VERSION_KEY)?.map(|version| version.value());
    if version != Some(VERSION) {
        return Err(format!("it has version {version:?}, this build reads version {VERSION}").into());
    }
    let mut contents = Contents::default();
    for row in transaction.open_table(SNAPSHOTS)?.iter()? {
        let (id, level) = row?;
        let level = level.value().checked_sub(1).map(|level| u32::try_from(level).unwrap_or(u32::MAX));
        contents.snapshots.insert(SnapshotId::from_bytes(*id.value()), level);
    }
    for row in transaction.open_table(RECEIVED)?.iter()? {
        let (id, order) = row?;
        contents.received.insert(PackId::from_bytes(*id.value()), order.value());
    }
    for row in transaction.open_table(ALIASES)?.iter()? {
        let (old, new) = row?;
        contents.aliases.insert(SnapshotId::from_bytes(*old.value()), SnapshotId::from_bytes(*new.value()));
    }
    for row in transaction.open_table(GONE)?.iter()? {
        contents.gone.insert(SnapshotId::from_bytes(*row?.0.value()), ());
    }
    for row in transaction.open_table(INTENTS)?.iter()? {
        let (id, replaced) = row?;
        let replaced = replaced.value().chunks_exact(32).filter_map(|id| <[u8; 32]>::try_from(id).ok());
        let replaced = replaced.map(SnapshotId::from_bytes).collect();
        contents.intents.insert(SnapshotId::from_bytes(*id.value()), replaced);
    }
    Ok(contents)
}
