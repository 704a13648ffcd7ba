//! The disk's process.
//!
//! It gets all that it needs through its standard descriptors and one folder: 0 is the socket at which
//! NBD clients connect, held by the node so that clients can wait there while this process is started
//! again; 1 is the connection to the node; 2 is the log. It ends when the node's end of 1 is closed.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use super::blocks::Client;
use super::channel::{receive, send};
use super::control::{CONTROL_VERSION, Reply, Request};
use super::description::Description;
use super::engine::Engine;
use super::stack::FreezeError;
use super::{BLOCK_SOCKET, nbd};
use crate::limits::DEMAND_PATIENCE;

/// Why a disk is not served.
#[derive(Debug, thiserror::Error)]
#[error("can't {doing} of the disk in {}", folder.display())]
pub struct ServeError {
    doing: &'static str,
    folder: std::path::PathBuf,
    source: io::Error,
}

/// Serves the disk in this folder until the node says stop or is gone. This is the whole of
/// `snapctl disk-server`.
///
/// # Errors
/// If the folder holds no disk, or the process was not started by [`super::Disk`].
pub fn serve(folder: &Path) -> Result<(), ServeError> {
    let failed = |doing| move |source| ServeError { doing, folder: folder.to_owned(), source };
    let listener = io::stdin().as_fd().try_clone_to_owned().map(UnixListener::from);
    let listener = listener.map_err(failed("take the socket"))?;
    let control = io::stdout().as_fd().try_clone_to_owned().map(UnixStream::from);
    let control = control.map_err(failed("take the control connection"))?;
    let description = Description::load(folder).map_err(failed("read the description"))?;
    let bytes = description.disk_bytes;
    let source = || Box::new(Client::new(folder.join(BLOCK_SOCKET), bytes)) as Box<_>;
    let engine =
        Engine::open(folder, &description, source, DEMAND_PATIENCE).map_err(failed("open the layers"))?;
    engine.start().map_err(failed("begin the upkeep"))?;
    let volume = Arc::clone(engine.volume());
    std::thread::Builder::new()
        .name("disk-accept".into())
        .spawn(move || nbd::serve(&listener, &volume))
        .map_err(failed("begin the service"))?;
    obey(&engine, &control).map_err(failed("hear the node"))
}

/// Does what the node says until it says no more.
fn obey(engine: &Arc<Engine>, control: &UnixStream) -> io::Result<()> {
    loop {
        let Some(request) = receive(control)? else { return Ok(()) };
        let is_last = request == Request::Stop;
        send(control, &answer(engine, request))?;
        if is_last {
            return Ok(());
        }
    }
}

fn answer(engine: &Arc<Engine>, request: Request) -> Reply {
    match request {
        Request::Hello { version: CONTROL_VERSION } | Request::Stop => Reply::Done,
        Request::Hello { version } => {
            Reply::Refused { reason: format!("version {version} is not {CONTROL_VERSION}") }
        }
        Request::Status => Reply::Status(engine.status()),
        Request::Freeze { layer } => match engine.freeze(layer) {
            Ok(active) => Reply::Frozen { active },
            Err(FreezeError::Busy) => Reply::Busy,
            Err(error) => Reply::Refused { reason: sustain_store::error_chain(&error) },
        },
        Request::Fold { layer } => {
            engine.fold(layer);
            Reply::Done
        }
        Request::Prefetch => match engine.prefetch() {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused { reason: error.to_string() },
        },
    }
}
