//! The programs that a user would take instead, each set as fast as it can be while it still compresses.
//!
//! None encrypts where that can be turned off; restic and rustic always do. Each sees a state's three files by
//! their names in the state's folder. Their own caches are off where that is faster with a repository on the same disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{Program, Side, Step};
use crate::states::REGIONS;

/// restic. Its compression has one fast level, which is the usual one.
pub(crate) struct Restic;

impl Program for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn side(&self) -> Side {
        Side::Rival
    }

    fn file(&self) -> PathBuf {
        "restic".into()
    }

    fn version_argument(&self) -> &'static str {
        "version"
    }

    fn commands(&self, repository: &Path, step: Step<'_>) -> Vec<Command> {
        let mut command = Command::new(self.file());
        command.args(["--quiet", "--no-cache", "--repo"]).arg(repository).env("RESTIC_PASSWORD", "x");
        match step {
            Step::Init => command.arg("init"),
            Step::Push(_, state) => command.arg("backup").args(REGIONS).current_dir(state),
            Step::Gather(_, to) => command.args(["restore", "latest", "--target"]).arg(to),
            Step::Verify => command.args(["check", "--read-data"]),
            Step::Rebase => command.args(["forget", "--keep-last", "1", "--group-by", "host", "--prune"]),
        };
        vec![command]
    }
}

/// borg, with chunks on a fixed grid, which suits images best; it skips holes only with these.
pub(crate) struct Borg;

impl Program for Borg {
    fn name(&self) -> &'static str {
        "borg, fixed 64 KiB"
    }

    fn side(&self) -> Side {
        Side::Rival
    }

    fn file(&self) -> PathBuf {
        "borg".into()
    }

    fn commands(&self, repository: &Path, step: Step<'_>) -> Vec<Command> {
        let borg = || {
            let mut command = Command::new(self.file());
            command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
            command
        };
        let archive = |number: usize| format!("{}::{number}", repository.display());
        let mut command = borg();
        match step {
            Step::Init => command.args(["init", "--encryption", "none"]).arg(repository),
            Step::Push(number, state) => command
                .args(["create", "--chunker-params", "fixed,65536", "--compression", "zstd,1", "--sparse"])
                .args(["--files-cache", "disabled", "--noatime", "--noacls", "--noxattrs", "--noflags"])
                .arg(archive(number))
                .args(REGIONS)
                .current_dir(state),
            // It writes to where it is.
            Step::Gather(number, to) => {
                command.args(["extract", "--sparse"]).arg(archive(number)).current_dir(to)
            }
            Step::Verify => command.args(["check", "--verify-data"]).arg(repository),
            Step::Rebase => {
                let mut compact = borg();
                compact.arg("compact").arg(repository);
                command.args(["prune", "--keep-last", "1"]).arg(repository);
                return vec![command, compact];
            }
        };
        vec![command]
    }
}

/// rustic, at zstd's level 1, with chunks by content, as it comes, or on a fixed grid.
pub(crate) struct Rustic {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Chunks on a fixed grid.
    pub(crate) is_fixed: bool,
}

impl Program for Rustic {
    fn name(&self) -> &'static str {
        if self.is_fixed { "rustic, fixed 64 KiB" } else { "rustic" }
    }

    fn side(&self) -> Side {
        Side::Rival
    }

    fn file(&self) -> PathBuf {
        self.file.clone()
    }

    fn commands(&self, repository: &Path, step: Step<'_>) -> Vec<Command> {
        let mut command = Command::new(&self.file);
        command.args(["--log-level", "error", "--no-progress", "--no-cache", "--repository"]);
        command.arg(repository).env("RUSTIC_PASSWORD", "x");
        match step {
            Step::Init => {
                command.args(["init", "--set-compression", "1"]);
                if self.is_fixed {
                    command.args(["--set-chunker", "fixed_size", "--set-chunk-size", "64KiB"]);
                }
                &mut command
            }
            Step::Push(_, state) => command.arg("backup").args(REGIONS).current_dir(state),
            Step::Gather(_, to) => command.args(["restore", "latest"]).arg(to),
            Step::Verify => command.args(["check", "--read-data"]),
            Step::Rebase => command.args([
                "forget",
                "--keep-last",
                "1",
                "--group-by",
                "host",
                "--prune",
                "--instant-delete",
            ]),
        };
        vec![command]
    }
}

/// casync. It has no check of its own; what it drops by `gc` needs no reading.
pub(crate) struct Casync;

impl Program for Casync {
    fn name(&self) -> &'static str {
        "casync"
    }

    fn side(&self) -> Side {
        Side::Slow
    }

    fn file(&self) -> PathBuf {
        "casync".into()
    }

    fn commands(&self, repository: &Path, step: Step<'_>) -> Vec<Command> {
        let index = |number: usize| repository.join(format!("{number}.caidx"));
        let mut command = Command::new(self.file());
        let store = format!("--store={}", repository.join("default.castr").display());
        match step {
            Step::Push(number, state) => {
                command.args(["make", "--compression=zstd", "--without=all", &store]);
                command.arg(index(number)).arg(state);
            }
            Step::Gather(number, to) => {
                command.args(["extract", "--without=all", &store]).arg(index(number)).arg(to);
            }
            Step::Init | Step::Verify | Step::Rebase => return Vec::new(),
        }
        vec![command]
    }
}
