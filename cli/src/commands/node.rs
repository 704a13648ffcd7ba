//! `snapctl node`: the daemon.

use std::io::Read;
use std::sync::Arc;

use clap::Args;
use sustain_node::operations::Failure;
use sustain_node::{Daemon, DaemonError};
use sustain_store::error_chain;
use sustain_vmdriver::QemuDriver;

use crate::interrupt::signal;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Run a node: hold snapshots, watch the server, take over when it is lost
///
/// Runs in the foreground and logs to standard error. Ctrl-C or SIGTERM stops it, its VM with it; a second
/// one ends it at once.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Stop when standard input is closed, so as never to outlive the program that started it
    #[arg(long)]
    stop_with_stdin: bool,
}

pub(crate) fn run(args: NodeArgs, choice: &Choice, _output: &Output) -> Result<u8, Failure> {
    let (path, config) = choice.load_config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(1, format!("can't start the runtime: {error}")))?;
    runtime.block_on(async {
        let name = config.name.clone();
        let daemon = Daemon::start(config, Arc::new(QemuDriver::default())).await.map_err(|error| failure(&error))?;
        tracing::info!(config = %path.display(), node = %name, address = %daemon.address(), "ready");
        tokio::select! {
            result = signal() => result.map_err(|error| Failure::new(1, format!("can't watch for signals: {error}")))?,
            () = stdin_closed(), if args.stop_with_stdin => {}
        }
        tracing::info!("stopping");
        tokio::select! {
            () = daemon.stop() => Ok(0),
            _ = signal() => Err(Failure::new(130, "stopped at once; QEMU ends with this process")),
        }
    })
}

fn failure(error: &DaemonError) -> Failure {
    let failure = Failure::new(error.exit_code(), error_chain(error));
    match error {
        DaemonError::Bind { .. } => failure.with_hint("is another node running with this configuration?"),
        DaemonError::OtherKey { .. } => {
            failure.with_hint("`name`, `nodes` and `key-file` must belong together")
        }
        _ => failure,
    }
}

/// Resolves when standard input is at its end. A thread of its own reads it: the runtime's way would keep
/// the process from ending before a read returns.
async fn stdin_closed() {
    let (closed, wait) = tokio::sync::oneshot::channel();
    let reader = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = [0; 256];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        let _ = closed.send(());
    });
    if let Err(error) = reader {
        tracing::error!(%error, "can't watch standard input");
        return;
    }
    let _ = wait.await;
}
