//! Numbers as people read them.

/// A size with a binary unit and three digits or so.
pub(crate) fn bytes(value: u64) -> String {
    sustain_proto::human::Size(value).to_string()
}

/// How long ago, or how long something took.
pub(crate) fn seconds(value: f64) -> String {
    if value < 1.0 {
        return format!("{:.0} ms", value * 1_000.0);
    }
    if value < 60.0 {
        return format!("{value:.2} s");
    }
    let whole = value as u64;
    match (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60) {
        (0, 0, minutes) => format!("{minutes} m {} s", whole % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} m"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A table: cells padded to the widest of their column, two spaces apart.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An age was once told as 1057.72 s.
    #[test]
    fn long_times_are_in_minutes_hours_and_days() {
        for (value, text) in [
            (0.25, "250 ms"),
            (59.5, "59.50 s"),
            (60.0, "1 m 0 s"),
            (1_057.72, "17 m 37 s"),
            (7_260.0, "2 h 1 m"),
            (180_000.0, "2 d 2 h"),
        ] {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn sizes_and_tables_are_readable() {
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), "a     b\nlong  c\n");
    }
}
