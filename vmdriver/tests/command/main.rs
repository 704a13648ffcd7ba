//! The command driver with the example of `testdata/command-example`, and with programs that misbehave.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, too")]

mod endings;
mod example;
mod support;
