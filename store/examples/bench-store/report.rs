//! The table, how far from the machine's limits, and the ratios.

use crate::contest::Row;
use crate::dirty::Dirty;
use crate::encodings::Stored;
use crate::machine::Machine;
use crate::measure::{Sample, median};
use crate::programs::Side;
use crate::states::{Contents, States};

/// A column: its name, its samples, and the bytes that a step stands for.
type Column = (&'static str, fn(&Row) -> &[Sample]);

const COLUMNS: [Column; 5] = [
    ("first push", |row| &row.first),
    ("later push", |row| &row.later),
    ("gather", |row| &row.gather),
    ("verify", |row| &row.verify),
    ("rebase", |row| &row.rebase),
];

fn wall(samples: &[Sample]) -> Option<f64> {
    median(samples.iter().map(|sample| sample.wall))
}

fn cpu(samples: &[Sample]) -> Option<f64> {
    median(samples.iter().map(|sample| sample.cpu))
}

pub(crate) fn print(rows: &[Row], states: &States, machine: &Machine) {
    let apparent = states.contents[0].apparent as f64;
    println!("\nmedians: seconds, seconds of processor, MB/s of {:.0} MB", apparent / 1e6);
    print!("{:<22}", "");
    COLUMNS.iter().for_each(|(name, _)| print!(" | {name:^21}"));
    println!();
    for row in rows {
        print!("{:<22}", row.name);
        for (_, samples) in COLUMNS {
            let samples = samples(row);
            match (wall(samples), cpu(samples)) {
                (Some(wall), Some(cpu)) => print!(" | {wall:>6.2} {cpu:>6.2} {:>7.0}", apparent / wall / 1e6),
                _ => print!(" | {:^21}", "–"),
            }
        }
        println!();
    }
    println!("\nshortest and longest, seconds");
    for row in rows {
        print!("{:<22}", row.name);
        for (_, samples) in COLUMNS {
            let walls = samples(row).iter().map(|sample| sample.wall);
            let (low, high) = (walls.clone().reduce(f64::min), walls.reduce(f64::max));
            match low.zip(high) {
                Some((low, high)) => print!(" | {low:>9.2} to {high:>8.2}"),
                None => print!(" | {:^21}", "–"),
            }
        }
        println!();
    }
    println!(
        "\nMB stored             |  after each push                           | each later | after the rebase"
    );
    for row in rows {
        let steps: String = row.bytes.iter().map(|bytes| format!(" {:>8.2}", *bytes as f64 / 1e6)).collect();
        let later = row.bytes_later().unwrap_or_default() / 1e6;
        println!("{:<22}|{steps} | {later:>9.2} | {:>9.2}", row.name, row.bytes_rebased as f64 / 1e6);
    }
    rows.iter().filter(|row| row.side.is_ours()).for_each(|row| print_distance(row, states, machine));
}

/// What the parts of each step that no store can do without would take, each at its limit, and how far off we are.
///
/// All cores share what needs the processor; what is written is written and synced after it. Reading what is stored is
/// counted as reading from the page cache.
fn print_distance(row: &Row, states: &States, machine: &Machine) {
    let Machine { copy, read, hash, compress, decompress, write } = *machine;
    let [copy, read, hash, compress, decompress] =
        [copy, read, hash, compress, decompress].map(|speed| speed.all);
    let (first, later) = (states.contents[0], states.later());
    let last = states.contents[states.contents.len() - 1];
    let stored: f64 = states.contents.iter().map(|state| state.new as f64).sum();
    let (total, first_bytes) =
        (row.bytes_total().unwrap_or_default(), row.bytes.first().copied().unwrap_or(0) as f64);
    let push = |seen: f64, state: &Contents, written: f64| {
        seen / read + seen / hash + state.new as f64 / compress + written / write
    };
    let seen_later = if row.side == Side::Told { later.listed } else { later.data };
    let whole = last.data as f64;
    let least = [
        push(first.data as f64, &first, first_bytes),
        push(seen_later as f64, &later, row.bytes_later().unwrap_or_default()),
        whole / decompress + whole / hash + whole / copy + whole / write,
        total / read + total / hash + stored / decompress + stored / hash,
    ];
    println!("\n{}: seconds, and what its parts take at this machine's limits alone", row.name);
    for ((name, samples), least) in COLUMNS.iter().zip(least) {
        let seconds = wall(samples(row)).unwrap_or_default();
        println!("    {name:<12} {seconds:>6.2} of {least:>6.2}: {:>5.2} times", seconds / least);
    }
}

/// The fastest of the rivals in a step.
fn fastest(rows: &[Row], samples: fn(&Row) -> &[Sample]) -> Option<f64> {
    let rivals = rows.iter().filter(|row| row.side == Side::Rival);
    rivals.filter_map(|row| wall(samples(row))).reduce(f64::min)
}

/// All ratios as JSON; null where there is nobody to compare with.
pub(crate) fn json(rows: &[Row], dirty: &Dirty) -> serde_json::Value {
    let (ours, told) = (&rows[0], &rows[1]);
    let rounded = |value: Option<f64>| value.map(|value| (value * 1e3).round() / 1e3);
    let times = |row: &Row, samples: fn(&Row) -> &[Sample]| {
        rounded(fastest(rows, samples).zip(wall(samples(row))).map(|(theirs, ours)| theirs / ours))
    };
    let share = |bytes: fn(&Row) -> Option<f64>| {
        let least = rows.iter().filter(|row| !row.side.is_ours()).filter_map(bytes).reduce(f64::min);
        rounded(least.zip(bytes(ours)).map(|(theirs, ours)| ours / theirs))
    };
    let [first, later, gather, verify, rebase] = COLUMNS.map(|(_, samples)| samples);
    serde_json::json!({
        "first_ratio": times(ours, first),
        "later_ratio": times(ours, later),
        "later_listed_ratio": times(told, later),
        "gather_ratio": times(ours, gather),
        "verify_ratio": times(ours, verify),
        "rebase_ratio": times(ours, rebase),
        "bytes_later_ratio": share(Row::bytes_later),
        "bytes_total_ratio": share(Row::bytes_total),
        "dirty_cpu_ms": rounded(Some(dirty.few)),
        "dirty_cpu_100_deltas_ms": rounded(Some(dirty.many)),
    })
}

/// What a program made of the states.
pub(crate) fn stored(row: &Row) -> Stored {
    let seconds = |samples: &[Sample]| samples.iter().map(|sample| sample.wall).sum();
    let first = row.bytes.first().copied().unwrap_or_default();
    let all = row.bytes.last().copied().unwrap_or_default();
    Stored {
        name: row.name.to_owned(),
        first: Some((first, seconds(&row.first))),
        later: Some((all.saturating_sub(first), seconds(&row.later))),
    }
}

/// The choices and the programs side by side. Speeds are of chunks that are new, so that they can be compared.
pub(crate) fn print_encodings(rows: &[Stored], states: &States) {
    let first = states.contents[0].new as f64;
    let later: f64 = states.contents[1..].iter().map(|state| state.new as f64).sum();
    println!(
        "\nfirst state: {:.1} MB in chunks; later states: {:.1} MB in new chunks",
        first / 1e6,
        later / 1e6
    );
    println!("{:<30} | first MB |  MB/s | later MB |  MB/s", "");
    for row in rows {
        print!("{:<30}", row.name);
        for (stored, chunks) in [(row.first, first), (row.later, later)] {
            match stored {
                Some((bytes, seconds)) => {
                    print!(" | {:>8.2} | {:>5.0}", bytes as f64 / 1e6, chunks / seconds / 1e6);
                }
                None => print!(" | {:>8} | {:>5}", "–", "–"),
            }
        }
        println!();
    }
}
