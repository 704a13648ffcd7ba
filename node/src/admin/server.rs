//! The Unix socket of the admin API.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::routes::{AdminState, router};

/// Binds the socket with mode 0600. A socket that a dead daemon left behind is replaced; one that a living
/// daemon answers on is not.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers on it"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until cancelled.
pub(crate) async fn serve(listener: UnixListener, state: Arc<AdminState>, cancel: CancellationToken) {
    let serving = axum::serve(listener, router(state)).with_graceful_shutdown(cancel.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "the admin API has ended");
    }
}
