//! `snapctl diff`: what differs between two snapshots.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use sustain_inspect::{DiffError, FileChange, FileKind, FilesDiff, RegionDiff, Span, compare};
use sustain_node::operations::{self, Failure};
use sustain_proto::human::counted;
use sustain_proto::{ServiceName, SnapshotId};
use sustain_store::error_chain;

use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::progress::Bar;
use crate::text;
use crate::whereabouts::Choice;

/// Ranges of a region, files, and ranges of a file that are printed without --all.
const REGION_RANGES: usize = 8;
const FILES: usize = 20;
const FILE_RANGES: usize = 3;

/// Tell what differs between two snapshots of a service
///
/// For each region: which pages of 4 KiB. Chunks that both have are not read. Where a region holds an ext4 file system,
/// the files are named whose blocks were written, as the later snapshot has them.
///
/// Example, what the last snapshot added: snapctl --store ./states diff mail@-1 mail@latest
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DiffArgs {
    /// The earlier snapshot: its id, the beginning of it, SERVICE@latest, or SERVICE@-1 for the one before, and so on
    before: String,

    /// The later one
    after: String,

    /// Print all files and ranges, not only the first ones (--json always does)
    #[arg(long)]
    all: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Differences {
    service: ServiceName,
    before: SnapshotId,
    after: SnapshotId,
    regions: Vec<RegionDiff>,
}

pub(crate) fn run(args: &DiffArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let store = choice.readable_store()?;
    let (before, after) =
        (operations::open(&store, &args.before)?, Arc::new(operations::open(&store, &args.after)?));
    let bar = Bar::new("diff", output.is_json());
    let compared = compare(&before, &after, &bar);
    bar.finish();
    let regions = compared.map_err(|error| match &error {
        DiffError::Read(fault) => Failure::of(fault, fault.source.kind()),
        DiffError::Cancelled => Failure::new(130, "interrupted"),
        DiffError::Services { .. } => Failure::new(2, error_chain(&error))
            .with_hint("name two of the same service, such as mail@-1 and mail@latest"),
        _ => Failure::new(1, error_chain(&error)),
    })?;
    let service = after.manifest().service.clone();
    let found = Differences { service, before: before.snapshot(), after: after.snapshot(), regions };
    output.result(&found, |found| words(found, args.all))?;
    Ok(0)
}

fn words(found: &Differences, all: bool) -> String {
    let mut text = format!("{}, from {} to {}\n", found.service, found.before.short(), found.after.short());
    let most = |some: usize| if all { usize::MAX } else { some };
    for region in &found.regions {
        text.push_str(&format!("{}: {}\n", region.region, summary(region)));
        text.push_str(&ranges(&region.ranges, most(REGION_RANGES), "  "));
        if let Some(files) = &region.ext4 {
            text.push_str(&files_words(files, most(FILES), most(FILE_RANGES)));
        }
        if let Some(problem) = &region.ext4_problem {
            text.push_str(&format!("  its ext4 file system is not understood: {problem}\n"));
        }
    }
    text
}

fn summary(region: &RegionDiff) -> String {
    let size = match (region.bytes_before, region.bytes_after) {
        (Some(before), Some(after)) if before == after => text::bytes(after),
        (Some(before), Some(after)) => format!("{}, was {}", text::bytes(after), text::bytes(before)),
        (None, Some(after)) => format!("{}, new", text::bytes(after)),
        (Some(before), None) => format!("gone, was {}", text::bytes(before)),
        (None, None) => "nothing".to_owned(),
    };
    if region.pages_changed == 0 {
        return format!("{size}, unchanged");
    }
    format!(
        "{size}, {} changed ({}) in {}{}",
        counted(region.pages_changed, "page", "pages"),
        text::bytes(region.bytes_changed),
        counted(region.ranges.len() as u64, "range", "ranges"),
        if region.coarse { ", some of whole chunks" } else { "" },
    )
}

fn ranges(spans: &[Span], most: usize, indent: &str) -> String {
    let mut text = String::new();
    for span in spans.iter().take(most) {
        text.push_str(&format!("{indent}at {}, {}\n", span.offset, text::bytes(span.bytes)));
    }
    text.push_str(&more(spans.len(), most, indent, "range", "ranges"));
    text
}

fn more(count: usize, most: usize, indent: &str, one: &str, many: &str) -> String {
    match count.saturating_sub(most) {
        0 => String::new(),
        left => format!("{indent}and {} more (--all)\n", counted(left as u64, one, many)),
    }
}

fn files_words(files: &FilesDiff, most: usize, most_ranges: usize) -> String {
    let mut text = "  ext4, by file:\n".to_owned();
    for change in files.files.iter().take(most) {
        text.push_str(&format!("    {}\n", file_words(change)));
        text.push_str(&ranges(&change.ranges, most_ranges, "      "));
    }
    text.push_str(&more(files.files.len(), most, "    ", "file", "files"));
    let rest = [
        (files.unlisted_bytes, "of files that are too many to list"),
        (files.metadata_bytes, "of metadata"),
        (files.journal_bytes, "of the journal"),
        (files.free_bytes, "of free space"),
        (files.outside_bytes, "behind the file system"),
    ];
    for (bytes, what) in rest.into_iter().filter(|(bytes, _)| *bytes > 0) {
        text.push_str(&format!("    {} {what}\n", text::bytes(bytes)));
    }
    for problem in &files.problems {
        text.push_str(&format!("    not understood: {}\n", printable(problem)));
    }
    text
}

fn file_words(change: &FileChange) -> String {
    let path = match &change.path {
        Some(path) => printable(path),
        None => format!("inode {}, in no folder", change.inode),
    };
    let kind = match change.kind {
        FileKind::File => "",
        FileKind::Folder => " (folder)",
        FileKind::Link => " (link)",
    };
    format!("{path}{kind}: {} of {}", text::bytes(change.bytes_changed), text::bytes(change.bytes))
}

/// A name from a guest's disk, with nothing in it that a terminal would obey.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_guests_file_name_gives_no_orders_to_the_terminal() {
        assert_eq!(printable("/tmp/\u{1b}[2J\u{7f}\n\u{9b}ü"), "/tmp/\\u{1b}[2J\\u{7f}\\n\\u{9b}ü");
    }
}
