//! A table of numbers, written as CSV.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

/// Rows of fields, under a head.
#[derive(Debug, Clone)]
pub struct Table {
    text: String,
    columns: usize,
}

impl Table {
    /// A table with these columns and no rows.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        Self { text: format!("{}\n", columns.join(",")), columns: columns.len() }
    }

    /// Adds a row of numbers and names. None of them may have a comma or a line's end in it.
    ///
    /// # Errors
    /// If it has another number of fields than the head.
    pub fn row(&mut self, fields: &[&dyn std::fmt::Display]) -> anyhow::Result<()> {
        anyhow::ensure!(
            fields.len() == self.columns,
            "{} fields under {} columns",
            fields.len(),
            self.columns
        );
        for (number, field) in fields.iter().enumerate() {
            let separator = if number == 0 { "" } else { "," };
            write!(self.text, "{separator}{field}")?;
        }
        self.text.push('\n');
        Ok(())
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, &self.text).with_context(|| format!("can't write {}", path.display()))
    }
}
