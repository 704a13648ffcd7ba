//! What is to be measured.

use std::path::PathBuf;

use crate::Outcome;

const USAGE: &str = "usage: bench-store --data DIR --snapctl FILE --scratch DIR [--rustic FILE] [--rounds N] [--quick] \
                     [--only-dirty | --only-encodings]";

/// The options.
pub(crate) struct Options {
    /// The folder of the states.
    pub(crate) data: PathBuf,
    /// The program under test.
    pub(crate) snapctl: PathBuf,
    /// Emptied at the start and removed at the end; on the file system that counts.
    pub(crate) scratch: PathBuf,
    /// Where rustic is, if not in the path.
    pub(crate) rustic: PathBuf,
    /// Rounds of all programs.
    pub(crate) rounds: usize,
    /// One round, and without what takes minutes for each.
    pub(crate) quick: bool,
    /// Nothing but the push that is told of few changes of a large image.
    pub(crate) only_dirty: bool,
    /// Nothing but what states take by different choices, and by each program.
    pub(crate) only_encodings: bool,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            data: PathBuf::new(),
            snapctl: PathBuf::new(),
            scratch: PathBuf::new(),
            rustic: "rustic".into(),
            rounds: 3,
            quick: false,
            only_dirty: false,
            only_encodings: false,
        };
        while let Some(name) = arguments.next() {
            if name == "--quick" {
                (options.quick, options.rounds) = (true, 1);
                continue;
            }
            if name == "--only-dirty" {
                options.only_dirty = true;
                continue;
            }
            if name == "--only-encodings" {
                (options.only_encodings, options.rounds) = (true, 1);
                continue;
            }
            let value = arguments.next().ok_or(USAGE)?;
            match name.as_str() {
                "--data" => options.data = std::path::absolute(value)?,
                "--snapctl" => options.snapctl = std::path::absolute(value)?,
                "--scratch" => options.scratch = std::path::absolute(value)?,
                "--rustic" => options.rustic = value.into(),
                "--rounds" => options.rounds = value.parse()?,
                _ => return Err(USAGE.into()),
            }
        }
        let given = [&options.data, &options.snapctl, &options.scratch];
        let given = given.iter().all(|path| !path.as_os_str().is_empty());
        if given && options.rounds > 0 { Ok(options) } else { Err(USAGE.into()) }
    }
}
