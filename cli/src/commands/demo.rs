//! `snapctl demo`: the main job, from nothing, on loopback.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use clap::Args;
use sustain_node::PlannedService;
use sustain_node::config::{Bytes, Duration, VmConfig};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;

use crate::demo;
use crate::output::Output;

/// Watch a service survive the loss of its server
///
/// Starts a cluster of nodes as processes on loopback and a real virtual machine on the first one, whose
/// service counts requests in memory only. A client counts through another node's port. Then the server is
/// killed, daemon and QEMU, with SIGKILL: the others notice, elect, gather, restore and serve on, and the
/// count goes on from the last durable snapshot. Nothing is left behind, also after Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Number of nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=50))]
    nodes: u16,

    /// Durable snapshots to wait for, once the guest has booted, before the server is killed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    snapshots: u64,

    /// Keep the folder with the nodes' stores and logs, and say where it is
    #[arg(long)]
    keep: bool,

    /// Folder with the guest's vmlinuz and initramfs.cpio.gz [default: $SUSTAIN_GUEST_DIR, or target/guest, where
    /// `make setup` builds one]
    #[arg(long = "guest", value_name = "DIR")]
    folder: Option<PathBuf>,

    #[command(flatten)]
    guest: GuestArgs,
}

/// What is promised for a guest.
#[derive(Debug, Clone, Args)]
pub(crate) struct GuestArgs {
    /// The service's name
    #[arg(long, default_value = "counter")]
    service: ServiceName,

    /// Time between two snapshots
    #[arg(long, default_value = "1s")]
    interval: Duration,

    /// Losses that a durable snapshot survives
    #[arg(long, default_value_t = 1)]
    tolerance: u32,

    /// Snapshots after which the newest one becomes the base of a new generation, and older ones go
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=500))]
    rebase_after: u32,

    /// Memory of the guest
    #[arg(long, default_value = "256MiB")]
    memory: Bytes,

    /// TCP port of the service inside the guest
    #[arg(long, default_value = "8080")]
    guest_port: NonZeroU16,
}

impl GuestArgs {
    /// Losses that a durable snapshot is to survive.
    pub(crate) fn tolerance(&self) -> u32 {
        self.tolerance
    }
}

/// Where a guest is if nobody says so.
fn usual_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("SUSTAIN_GUEST_DIR") {
        return folder.into();
    }
    // Beside the build that this program belongs to, wherever it is called from.
    let program = std::env::current_exe().ok();
    let built = program.as_deref().and_then(|path| path.parent()?.parent()).map(|path| path.join("guest"));
    built.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("target/guest"))
}

/// The service that a guest provides, for every node's configuration.
pub(crate) fn planned_service(
    guest: &GuestArgs,
    folder: &Path,
    listen: Vec<SocketAddr>,
) -> Result<PlannedService, Failure> {
    let file = |name: &str| -> Result<PathBuf, Failure> {
        let path = folder.join(name);
        let missing = |error| {
            Failure::new(1, format!("there is no guest: {}: {error}", path.display()))
                .with_hint("`make setup` builds one into target/guest; --guest names another folder")
        };
        std::fs::metadata(&path).map_err(missing)?;
        std::path::absolute(&path).map_err(missing)
    };
    Ok(PlannedService {
        name: guest.service.clone(),
        interval: guest.interval,
        tolerance: guest.tolerance,
        rebase_after: guest.rebase_after,
        listen,
        vm: VmConfig {
            memory: guest.memory,
            cpus: 1,
            kernel: Some(file("vmlinuz")?),
            initramfs: Some(file("initramfs.cpio.gz")?),
            kernel_args: None,
            disk: None,
            accel: sustain_vmdriver::Accel::Auto,
        },
        guest_port: guest.guest_port,
    })
}

pub(crate) fn run(args: DemoArgs, output: &Output) -> Result<u8, Failure> {
    let settings = demo::Settings {
        nodes: usize::from(args.nodes),
        snapshots: args.snapshots,
        keep: args.keep,
        guest: args.guest,
        folder: args.folder.unwrap_or_else(usual_folder),
    };
    demo::run(&settings, output)
}
