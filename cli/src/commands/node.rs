//! `snapctl node`: the daemon.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use sustain_node::config::{self, Config};
use sustain_node::operations::Failure;
use sustain_node::{Daemon, DaemonError};
use sustain_store::error_chain;
use sustain_vmdriver::QemuDriver;
use tokio::signal::unix::{self, Signal, SignalKind};

use crate::cores;
use crate::interrupt::signal;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Run a node: hold snapshots, watch the server, take over when it is lost
///
/// Runs in the foreground and logs to standard error. Ctrl-C or SIGTERM stops it, its VM with it; a second
/// one ends it at once. The configuration is read at the start only: SIGHUP changes nothing, and the log says whether
/// a restart would. If the log goes to a terminal, SIGHUP tells that the terminal is gone, and stops the node.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Stop when standard input is closed, so as never to outlive the program that started it
    #[arg(long)]
    stop_with_stdin: bool,
}

pub(crate) fn run(args: NodeArgs, choice: &Choice, _output: &Output) -> Result<u8, Failure> {
    let (path, config) = choice.load_config()?;
    if let Some(cores) = config.share.cores {
        cores::keep_to(cores)
            .map_err(|error| Failure::new(1, format!("can't keep to {cores} cores: {error}")))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(1, format!("can't start the runtime: {error}")))?;
    runtime.block_on(async {
        let mut hangups = Hangups::watch(path.clone(), config.clone())?;
        let name = config.name.clone();
        let daemon =
            Daemon::start(config, Arc::new(QemuDriver::default())).await.map_err(|error| failure(&error))?;
        tracing::info!(config = %path.display(), node = %name, address = %daemon.address(), "ready");
        let (mut removed_by, mut is_signalled) = (None, false);
        tokio::select! {
            by = daemon.removed() => removed_by = Some(by),
            result = signal() => {
                result.map_err(|error| Failure::new(1, format!("can't watch for signals: {error}")))?;
                is_signalled = true;
            }
            () = stdin_closed(), if args.stop_with_stdin => {}
            () = hangups.terminal_gone() => {}
        }
        if let Some(by) = removed_by {
            tracing::error!(by, "this node was removed from the cluster: it stops");
            daemon.stop().await;
            return Err(removed(format!("this node was removed from the cluster by {by}")));
        }
        tracing::info!("stopping");
        let insisting = async {
            // Whoever started this program may close its standard input and send the first signal at the same time.
            if !is_signalled {
                let _ = signal().await;
            }
            signal().await
        };
        tokio::select! {
            () = daemon.stop() => Ok(0),
            _ = insisting => Err(Failure::new(130, "stopped at once; QEMU ends with this process")),
        }
    })
}

/// What is done about SIGHUP, which would end the process: without a word, and VMs with it.
struct Hangups {
    signals: Signal,
    on_terminal: bool,
    path: PathBuf,
    /// What the node was started with.
    config: Config,
}

impl Hangups {
    fn watch(path: PathBuf, config: Config) -> Result<Self, Failure> {
        let signals = unix::signal(SignalKind::hangup());
        let signals =
            signals.map_err(|error| Failure::new(1, format!("can't watch for signals: {error}")))?;
        Ok(Self { signals, on_terminal: std::io::stderr().is_terminal(), path, config })
    }

    /// Resolves when the terminal is gone that the node was started on; each time that somebody means a service
    /// without a terminal to read its configuration, tells them what would come of it.
    async fn terminal_gone(&mut self) {
        while self.signals.recv().await.is_some() {
            if self.on_terminal {
                return;
            }
            let path = self.path.display();
            match config::load(&self.path) {
                Ok(found) if found == self.config => {
                    tracing::warn!(config = %path, "SIGHUP: the configuration is as it was when this node started");
                }
                Ok(_) => tracing::warn!(
                    config = %path,
                    "SIGHUP: the configuration has changed, and holds from this node's next start on: restart it"
                ),
                Err(error) => tracing::error!(
                    config = %path, error = %error_chain(&error),
                    "SIGHUP: with its configuration as it is, this node would not start again"
                ),
            }
        }
        std::future::pending().await
    }
}

/// The exit code of a node that no longer belongs to its cluster.
const REMOVED: u8 = 15;

fn removed(error: String) -> Failure {
    Failure::new(REMOVED, error).with_hint(
        "to have the machine back, join with a new key: `snapctl invite` at a node, `snapctl join` here",
    )
}

fn failure(error: &DaemonError) -> Failure {
    let failure = Failure::new(error.exit_code(), error_chain(error));
    match error {
        DaemonError::Cluster(_) if failure.exit_code == REMOVED => removed(failure.error),
        DaemonError::Cluster(_) if failure.exit_code == 13 => failure.with_hint(
            "move that file away: it is made anew from the configuration, and from what other nodes tell",
        ),
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
