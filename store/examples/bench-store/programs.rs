//! Programs that store states: what each is run with for every step. Ours are here, the others in `peers`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::states::REGIONS;

/// Something that a program is asked to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    /// Make the repository.
    Init,
    /// Store a state: its number and its folder.
    Push(usize, &'a Path),
    /// Write the state of this number, which is the newest, into a folder that does not exist.
    Gather(usize, &'a Path),
    /// Read and check everything that is stored.
    Verify,
    /// Keep the newest state only.
    Rebase,
}

/// Whose side a program is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Ours.
    Ours,
    /// Ours, told what changed.
    Told,
    /// Theirs; the fastest of these counts.
    Rival,
    /// Theirs; measured once and without a say in what is fastest, because it takes minutes.
    Slow,
}

impl Side {
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Told)
    }
}

/// A program and its settings.
pub(crate) trait Program {
    /// What the table calls it.
    fn name(&self) -> &'static str;

    /// Whose it is.
    fn side(&self) -> Side;

    /// The program itself.
    fn file(&self) -> PathBuf;

    /// What has it tell its version.
    fn version_argument(&self) -> &'static str {
        "--version"
    }

    /// What is run for a step, with everything stored in this folder; nothing if it has no such step.
    fn commands(&self, repository: &Path, step: Step<'_>) -> Vec<Command>;
}

/// `snapctl`.
pub(crate) struct Snapctl {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Whether it is told what changed.
    pub(crate) is_told: bool,
}

impl Program for Snapctl {
    fn name(&self) -> &'static str {
        if self.is_told { "snapctl, lists" } else { "snapctl" }
    }

    fn side(&self) -> Side {
        if self.is_told { Side::Told } else { Side::Ours }
    }

    fn file(&self) -> PathBuf {
        self.file.clone()
    }

    fn commands(&self, repository: &Path, step: Step<'_>) -> Vec<Command> {
        let mut command = Command::new(&self.file);
        command.arg("--store").arg(repository);
        match step {
            Step::Init => return Vec::new(),
            Step::Push(number, state) => {
                command.args(["push", "mail"]);
                for region in REGIONS {
                    command.arg(format!("--region={region}={}", state.join(region).display()));
                    if self.is_told && number > 1 {
                        let list = state.join(format!("{region}.changed"));
                        command.arg(format!("--changed={region}={}", list.display()));
                    }
                }
            }
            Step::Gather(_, to) => {
                command.args(["gather", "mail@latest", "--to"]).arg(to);
            }
            Step::Verify => {
                command.arg("verify");
            }
            Step::Rebase => {
                command.args(["rebase", "mail"]);
            }
        }
        vec![command]
    }
}
