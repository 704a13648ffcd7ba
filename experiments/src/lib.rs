//! What experiments share: tables in CSV files, and charts of them.

mod chart;
mod table;

pub use chart::{Axis, Chart, Series};
pub use table::Table;
