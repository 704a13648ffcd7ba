//! Style as a test: rules of this repository that no compiler and no linter checks.
//!
//! Every check is a pure function from texts to findings, and its own tests show that it can fail.
//! `tests/workspace.rs` runs them all over the repository. To see what is wrong: `cargo test -p sustain-tidy`.

mod arrows;
mod finding;
mod header;
mod length;
mod links;
mod logic;
mod source;
mod unsafety;
mod walk;
mod words;

pub use arrows::check_arrows;
pub use finding::Finding;
pub use header::check_header;
pub use length::{FILE_LINES_MAX, LINE_CHARACTERS_MAX, check_length};
pub use links::check_links;
pub use logic::{check_logic, is_logic};
pub use source::Source;
pub use unsafety::check_unsafety;
pub use walk::{read_sources, root};
pub use words::check_words;
