//! Cuts a stream of bytes into lines of bounded length.

use crate::limits::QMP_LINE_BYTES_MAX;

use super::QmpError;

/// Bytes received and not yet taken.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
    /// How much of `pending` is known to hold no line end, so that nothing is searched twice.
    searched: usize,
}

impl Lines {
    /// Adds what was received.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Takes the next whole line that is not empty, without its end.
    ///
    /// # Errors
    /// If the line under way is too long.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, QmpError> {
        loop {
            let Some(end) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.pending.len();
                if self.pending.len() > QMP_LINE_BYTES_MAX {
                    return Err(QmpError::Protocol { what: "a line without an end" });
                }
                return Ok(None);
            };
            let rest = self.pending.split_off(self.searched + end + 1);
            let mut line = std::mem::replace(&mut self.pending, rest);
            self.searched = 0;
            if line.len() > QMP_LINE_BYTES_MAX {
                return Err(QmpError::Protocol { what: "a line that is too long" });
            }
            while line.last().is_some_and(u8::is_ascii_whitespace) {
                line.pop();
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_the_bytes_come_in() {
        let text = b"{\"a\":1}\r\n\r\n\n{\"b\":2}\n{\"c\"";
        for step in 1..=text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in text.chunks(step) {
                lines.push(part);
                while let Some(line) = lines.next().unwrap() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "{\"b\":2}"], "in steps of {step} bytes");
            assert_eq!(lines.pending, b"{\"c\"");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_refused() {
        let mut lines = Lines::default();
        for _ in 0..QMP_LINE_BYTES_MAX / 1024 {
            lines.push(&[b'x'; 1024]);
            assert!(lines.next().unwrap().is_none());
        }
        lines.push(b"x");
        assert!(matches!(lines.next(), Err(QmpError::Protocol { .. })));
    }
}
