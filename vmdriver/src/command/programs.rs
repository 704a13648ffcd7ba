//! Which programs there are, and what each is told.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sustain_proto::ServiceName;

use super::CommandSettings;
use super::error::ProgramError;
use super::job::{Call, bare};
use crate::host;
use crate::spec::PortForward;

/// Version of the contract in `docs/command-driver.md`.
const CONTRACT_VERSION: &str = "1";

/// What a program is for; also its name in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verb {
    /// Says whether the service could be started here.
    Check,
    /// Runs the service, in the foreground.
    Start,
    /// Says whether the service answers.
    Alive,
    /// Puts its state into files.
    Snapshot,
    /// Gets its state from files.
    Restore,
    /// Ends it in good order.
    Stop,
    /// Runs a program beside or inside it.
    RunInGuest,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 7] =
        [Self::Check, Self::Start, Self::Alive, Self::Snapshot, Self::Restore, Self::Stop, Self::RunInGuest];

    /// The program's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Start => "start",
            Self::Alive => "alive",
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Stop => "stop",
            Self::RunInGuest => "run-in-guest",
        }
    }

    /// Whether nothing goes without it.
    #[must_use]
    pub const fn is_needed(self) -> bool {
        matches!(self, Self::Start | Self::Snapshot | Self::Restore)
    }
}

/// The programs of one service.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    settings: CommandSettings,
    service: ServiceName,
    folders: Option<Arc<Folders>>,
    forwards: Vec<PortForward>,
    /// See [`Call`].
    kept: Arc<AtomicBool>,
}

/// The folders of one life of a service; those with its state go with it.
#[derive(Debug)]
struct Folders {
    run: PathBuf,
    state: PathBuf,
    snapshot: PathBuf,
}

impl Folders {
    fn new(run: PathBuf) -> Self {
        Self { state: run.join("state"), snapshot: run.join("snapshot"), run }
    }

    fn remove_state(&self) -> std::io::Result<()> {
        remove(&self.state).and(remove(&self.snapshot))
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        if let Err(error) = self.remove_state() {
            tracing::warn!(folder = %self.run.display(), %error, "a service's state stays behind");
        }
    }
}

/// Removes the state of a service whose node was killed, of which `run_dir` was the folder.
pub(crate) fn remove_left_behind(run_dir: &Path) -> std::io::Result<()> {
    // Dropping it would do it too, but without telling.
    Folders::new(run_dir.to_owned()).remove_state()
}

impl Programs {
    /// Looks whether those are there without which nothing goes.
    pub(super) fn find(settings: &CommandSettings, service: &ServiceName) -> Result<Self, ProgramError> {
        for verb in Verb::ALL.into_iter().filter(|verb| verb.is_needed()) {
            let path = settings.folder.join(verb.as_str());
            if !host::is_program(&path) {
                return Err(ProgramError::Missing { path });
            }
        }
        let (settings, service) = (settings.clone(), service.clone());
        Ok(Self { settings, service, folders: None, forwards: Vec::new(), kept: Arc::default() })
    }

    /// Makes its folders anew, empty and for this user alone. What an earlier life left in them is gone:
    /// a service begins from nothing or from a snapshot.
    pub(super) fn with_folders(mut self, run_dir: &Path) -> Result<Self, ProgramError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| ProgramError::Folder { doing, path, source }
        };
        let run = std::path::absolute(run_dir).map_err(failed("find", run_dir))?;
        let folders = Folders::new(run);
        fs::create_dir_all(&folders.run).map_err(failed("make", &folders.run))?;
        for folder in [&folders.state, &folders.snapshot] {
            empty(folder).map_err(failed("empty", folder))?;
        }
        self.folders = Some(Arc::new(folders));
        Ok(self)
    }

    /// Finds a free port for each that is left to the system. Nobody holds it until the service does, so
    /// another program could take it first; then the service does not come up, and is tried again elsewhere.
    pub(super) fn with_ports(mut self, wanted: &[PortForward]) -> Result<Self, ProgramError> {
        // Held until all are found, so that no two are the same.
        let mut held = Vec::new();
        for forward in wanted {
            let failed = |source| ProgramError::Port { guest_port: forward.guest_port, source };
            let mut found = *forward;
            if found.host.port() == 0 {
                let listener = TcpListener::bind(found.host).map_err(failed)?;
                found.host = listener.local_addr().map_err(failed)?;
                held.push(listener);
            }
            self.forwards.push(found);
        }
        Ok(self)
    }

    pub(super) fn settings(&self) -> &CommandSettings {
        &self.settings
    }

    pub(super) fn service(&self) -> &ServiceName {
        &self.service
    }

    pub(super) fn forwards(&self) -> &[PortForward] {
        &self.forwards
    }

    /// The folder of the snapshot's files.
    pub(super) fn snapshot_folder(&self) -> Result<&Path, ProgramError> {
        self.folders.as_ref().map(|folders| folders.snapshot.as_path()).ok_or(ProgramError::Incomplete)
    }

    /// Makes the folder of the snapshot's files empty again.
    pub(super) fn empty_snapshot_folder(&self) -> Result<(), ProgramError> {
        let path = self.snapshot_folder()?;
        let failed = |source| ProgramError::Folder { doing: "empty", path: path.to_owned(), source };
        empty(path).map_err(failed)
    }

    /// Makes that folder anew if it is none any more: a program may have removed it, or put a link in its place.
    pub(super) fn ready_snapshot_folder(&self) -> Result<(), ProgramError> {
        let is_folder = fs::symlink_metadata(self.snapshot_folder()?).is_ok_and(|found| found.is_dir());
        if is_folder { Ok(()) } else { self.empty_snapshot_folder() }
    }

    /// How the program of this verb is called; none if it is left out.
    pub(super) fn call(&self, verb: Verb) -> Option<Call> {
        let program = self.settings.folder.join(verb.as_str());
        if !host::is_program(&program) {
            return None;
        }
        let mut call = bare(&program, self.folders.as_ref().map_or(&self.settings.folder, |it| &it.run))
            .with("SUSTAIN_CONTRACT", CONTRACT_VERSION)
            .with("SUSTAIN_SERVICE", self.service.as_str());
        call.kept = Arc::clone(&self.kept);
        if let Some(folders) = &self.folders {
            call = call.with("SUSTAIN_RUN", &folders.run).with("SUSTAIN_STATE", &folders.state);
            if matches!(verb, Verb::Snapshot | Verb::Restore) {
                call = call.with("SUSTAIN_SNAPSHOT", &folders.snapshot);
            }
            call.log = Some((folders.run.clone(), format!("{}.log", verb.as_str())));
        }
        for (position, forward) in self.forwards.iter().enumerate() {
            if position == 0 {
                call = call.with("SUSTAIN_LISTEN", text(forward.host));
            }
            call = call.with(&format!("SUSTAIN_LISTEN_{}", forward.guest_port), text(forward.host));
        }
        Some(call)
    }
}

fn text(address: SocketAddr) -> OsString {
    address.to_string().into()
}

/// An empty folder of mode 0700, whatever was there.
fn empty(folder: &Path) -> std::io::Result<()> {
    remove(folder)?;
    fs::DirBuilder::new().mode(0o700).create(folder)
}

/// No folder, whatever was there. A link is removed, and not what it leads to.
fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(folder),
        Ok(_) => fs::remove_file(folder),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
