//! The demo: a cluster of real processes, a real VM, a real loss.

mod cluster;
mod judge;
mod story;
mod visitor;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sustain_node::clock::wall_ms;
use sustain_node::events::{Happening, NodeEvent};
use sustain_node::logic::Role;
use sustain_node::operations::Failure;

use crate::commands::demo::GuestArgs;
use crate::interrupt::signal;
use crate::output::Output;

use cluster::DemoCluster;
use judge::{Facts, judge};
use story::Story;
use visitor::Visitor;

/// What the user chose.
pub(crate) struct Settings {
    /// Number of nodes.
    pub(crate) nodes: usize,
    /// Durable snapshots before the kill.
    pub(crate) snapshots: u64,
    /// Keep the folder.
    pub(crate) keep: bool,
    /// The guest.
    pub(crate) guest: GuestArgs,
    /// The folder with its kernel.
    pub(crate) folder: PathBuf,
}

/// How long the guest may take to boot: half a minute under emulation on a busy machine, and as much again.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// How long the wanted snapshots may take to be durable.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(120);

/// How long a take-over may take before the demo counts as failed.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the nodes' events.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the demo. Whatever happens, its processes and its folder are gone afterwards.
pub(crate) fn run(settings: &Settings, output: &Output) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(1, format!("can't start the runtime: {error}")))?;
    runtime.block_on(async {
        let mut cluster = DemoCluster::start(settings).await?;
        let result = tokio::select! {
            result = play(settings, output, &mut cluster) => result,
            _ = signal() => Err(Failure::new(130, "interrupted; nothing is left behind")),
        };
        let result = result.map_err(|failure| cluster.explain(failure));
        let folder = cluster.stop(settings.keep).await;
        if let Some(folder) = folder {
            output.message(&format!("the nodes' stores and logs are in {}", folder.display()));
        }
        result
    })
}

async fn play(settings: &Settings, output: &Output, cluster: &mut DemoCluster) -> Result<u8, Failure> {
    let mut story = Story::new(*output);
    story.tell("start", &format!("{} nodes as processes, {}", cluster.nodes.len(), cluster.place()))?;
    let server = wait_for_server(cluster, &mut story, BOOT_PATIENCE, "the first server").await?;
    let last = cluster.nodes.len() - 1;
    let visitor = Visitor::start(cluster.nodes[last].service);
    let booted = |_: &Story, _: &[_]| visitor.answers() > 0;
    wait_until(cluster, &mut story, BOOT_PATIENCE, "the guest's first answer", booted).await?;
    let at = &cluster.nodes[last].name;
    story.tell("serving", &format!("the guest has booted; a client counts through the port of {at}"))?;
    watch_snapshots(settings, cluster, &mut story).await?;

    story.listen(cluster).await?;
    // Before the kill: the first failed request may come at once, and there may be no second.
    visitor.expect_outage();
    let killed = cluster.kill(server).await?;
    visitor.server_is_lost();
    story.kill(&cluster.nodes[server].name, killed.time_ms, killed.vm_pid)?;
    let successor = wait_for_server(cluster, &mut story, TAKEOVER_PATIENCE, "a new server").await?;
    let went_on = |_: &Story, _: &[_]| visitor.went_on();
    wait_until(cluster, &mut story, TAKEOVER_PATIENCE, "an answer after the take-over", went_on).await?;
    let visits = visitor.stop();
    story.told_by_client(&visits)?;
    let returned = bring_back(cluster, &mut story, server).await?;

    let facts = Facts { nodes: cluster.nodes.len(), successor, killed_ms: killed.time_ms, returned };
    let verdict = judge(&facts, &story, &visits)?;
    story.end(&verdict)?;
    Ok(if verdict.ok { 0 } else { 1 })
}

/// Tells what all nodes say until one of them becomes the server.
async fn wait_for_server(
    cluster: &mut DemoCluster,
    story: &mut Story,
    patience: Duration,
    what: &str,
) -> Result<usize, Failure> {
    let mut server = None;
    wait_until(cluster, story, patience, what, |_, told| {
        let is_server = |happening: &Happening| matches!(happening, Happening::Role { to: Role::Server, .. });
        server = server.or(told.iter().find(|(_, event)| is_server(&event.what)).map(|(node, _)| *node));
        server.is_some()
    })
    .await?;
    server.ok_or_else(|| Failure::new(1, format!("{what} did not come")))
}

/// Tells what all nodes say, in the order of time, until the condition holds.
async fn wait_until(
    cluster: &mut DemoCluster,
    story: &mut Story,
    patience: Duration,
    what: &str,
    mut holds: impl FnMut(&Story, &[(usize, NodeEvent)]) -> bool,
) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let told = story.listen(cluster).await?;
        if holds(story, &told) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(1, format!("{what} did not come in {} s", patience.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn watch_snapshots(
    settings: &Settings,
    cluster: &mut DemoCluster,
    story: &mut Story,
) -> Result<(), Failure> {
    // Those from before the first answer show a booting guest; the client must have been seen by some.
    let from = wall_ms();
    let mut durable = 0;
    wait_until(cluster, story, SNAPSHOT_PATIENCE, "the durable snapshots", |_, told| {
        let is_durable =
            |event: &NodeEvent| matches!(event.what, Happening::Durable { .. }) && event.time_ms > from;
        durable += told.iter().filter(|(_, event)| is_durable(event)).count() as u64;
        durable >= settings.snapshots
    })
    .await
}

/// Starts the killed node again: it must come back as a candidate that follows the new server.
async fn bring_back(cluster: &mut DemoCluster, story: &mut Story, node: usize) -> Result<bool, Failure> {
    cluster.restart(node).await?;
    let deadline = Instant::now() + BOOT_PATIENCE;
    let own = cluster.nodes[node].id;
    loop {
        if let Ok(status) = cluster.status(node).await {
            let service = status.services.first();
            let follows = service.and_then(|service| service.server).is_some_and(|server| server != own);
            if follows && service.is_some_and(|service| service.role == Role::Candidate) {
                let name = &cluster.nodes[node].name;
                story.tell("returned", &format!("{name} is started again, and is a candidate"))?;
                return Ok(service.is_some_and(|service| service.vm_pid.is_none()));
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::new(1, "the killed node did not come back as a candidate in time"));
        }
        tokio::time::sleep(LOOK).await;
    }
}
