//! Cuts a stream of bytes into lines of bounded length.

/// A line had more bytes than it may have. It is passed over; the next one is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineTooLong;

/// Bytes received and not yet taken.
#[derive(Debug)]
pub(crate) struct Lines {
    pending: Vec<u8>,
    /// How much of `pending` is known to hold no line end, so that nothing is searched twice.
    searched: usize,
    line_bytes_max: usize,
    /// Inside a line that is too long: what comes is dropped up to its end.
    skipping: bool,
}

impl Lines {
    /// For lines of at most so many bytes, the end not counted.
    pub(crate) fn new(line_bytes_max: usize) -> Self {
        Self { pending: Vec::new(), searched: 0, line_bytes_max, skipping: false }
    }

    /// Adds what was received.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Takes the next whole line that is not empty, without its end.
    ///
    /// # Errors
    /// If the line under way is too long; said once for each such line.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        loop {
            let Some(end) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') else {
                return self.without_end();
            };
            let rest = self.pending.split_off(self.searched + end + 1);
            let mut line = std::mem::replace(&mut self.pending, rest);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if line.len() > self.line_bytes_max + 1 {
                return Err(LineTooLong);
            }
            while line.last().is_some_and(u8::is_ascii_whitespace) {
                line.pop();
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// Nothing whole is there.
    fn without_end(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        if self.skipping {
            self.pending.clear();
        } else if self.pending.len() > self.line_bytes_max {
            self.pending.clear();
            self.searched = 0;
            self.skipping = true;
            return Err(LineTooLong);
        }
        self.searched = self.pending.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_the_bytes_come_in() {
        let text = b"{\"a\":1}\r\n\r\n\n{\"b\":2}\n{\"c\"";
        for step in 1..=text.len() {
            let mut lines = Lines::new(100);
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
    fn a_line_that_is_too_long_is_said_once_and_costs_no_memory() {
        for step in [1, 3, 50] {
            let mut lines = Lines::new(8);
            let mut found = Vec::new();
            let text = [b"12345678\n".as_slice(), &[b'x'; 1_000], b"\n", b"after\n"].concat();
            for part in text.chunks(step) {
                lines.push(part);
                loop {
                    match lines.next() {
                        Ok(Some(line)) => found.push(String::from_utf8(line).unwrap()),
                        Ok(None) => break,
                        Err(LineTooLong) => found.push("too long".to_owned()),
                    }
                }
                assert!(lines.pending.len() <= 8 + step);
            }
            assert_eq!(found, ["12345678", "too long", "after"], "in steps of {step} bytes");
        }
    }
}
