//! What is printed: data to standard output, messages to standard error.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use serde::Serialize;
use sustain_node::operations::Failure;

/// The exit code of a command whose reader has gone away: the shell's for a program that SIGPIPE ended.
const READER_GONE: u8 = 141;

/// The printer. The only place that writes to the standard streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// A printer of JSON, or of text for people.
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: the value as one line of JSON, or the text that `words` makes of it.
    pub(crate) fn result<T: Serialize>(
        &self,
        value: &T,
        words: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string(value)
                .map_err(|error| Failure::new(1, format!("can't print JSON: {error}")))?
        } else {
            words(value)
        };
        self.line(&text)
    }

    /// Prints a line of data. A reader that has gone away (`| head`) ends the command, and nobody is told.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush());
        written.map_err(|error| Self::unwritten(&error))
    }

    /// Standard output as a file, for data that are no text: nothing looks for line ends in them.
    pub(crate) fn data(&self) -> Result<File, Failure> {
        let copy = io::stdout().as_fd().try_clone_to_owned();
        copy.map(File::from).map_err(|error| Self::unwritten(&error))
    }

    /// What failed where data could not be written. A reader that has gone away ends the command, and nobody is told.
    pub(crate) fn unwritten(error: &io::Error) -> Failure {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        Failure::new(if gone { READER_GONE } else { 1 }, format!("can't write to standard output: {error}"))
    }

    /// Prints a message for people.
    pub(crate) fn message(&self, text: &str) {
        // There is nowhere left to complain about a broken standard error.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Prints a failure: as JSON too, where that was asked for.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.exit_code == READER_GONE {
            return;
        }
        if self.json {
            if let Ok(text) = serde_json::to_string(failure) {
                let _ = self.line(&text);
            }
        }
        self.complain(failure);
    }

    /// Prints a failure for people, beside data that were printed all the same.
    pub(crate) fn complain(&self, failure: &Failure) {
        self.message(&format!("error: {}", failure.error));
        if let Some(hint) = &failure.hint {
            self.message(&format!("hint: {hint}"));
        }
    }
}
