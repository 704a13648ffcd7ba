//! The demo: a cluster of real processes, a real VM, a real loss.

mod cluster;
mod judge;
mod story;
mod visitor;

use std::time::{Duration, Instant};

use sustain_node::clock::wall_ms;
use sustain_node::events::Happening;
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
    let server = wait_for_server(cluster, &mut story, BOOT_PATIENCE).await?;
    let last = cluster.nodes.len() - 1;
    let visitor = Visitor::start(cluster.nodes[last].service);
    wait_until(BOOT_PATIENCE, "the guest's first answer", || visitor.answers() > 0).await?;
    let at = &cluster.nodes[last].name;
    story.tell("serving", &format!("the guest has booted; a client counts through the port of {at}"))?;
    watch_snapshots(settings, cluster, &mut story, server).await?;

    let before = cluster.drain_events(server).await?;
    story.note_all(&before);
    let killed = cluster.kill(server).await?;
    visitor.expect_outage();
    story.kill(&cluster.nodes[server].name, killed.time_ms, killed.vm_pid)?;
    let successor = watch_takeover(cluster, &mut story, server).await?;
    wait_until(TAKEOVER_PATIENCE, "an answer after the take-over", || visitor.went_on()).await?;
    story.drain(cluster, server).await?;
    let visits = visitor.stop();
    story.told_by_client(&visits)?;
    let returned = bring_back(cluster, &mut story, server).await?;

    let facts = Facts { nodes: cluster.nodes.len(), successor, killed_ms: killed.time_ms, returned };
    let verdict = judge(&facts, &story, &visits)?;
    story.end(&verdict)?;
    Ok(if verdict.ok { 0 } else { 1 })
}

async fn wait_for_server(
    cluster: &mut DemoCluster,
    story: &mut Story,
    patience: Duration,
) -> Result<usize, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        for node in 0..cluster.nodes.len() {
            for event in cluster.drain_events(node).await? {
                story.note(node, &cluster.nodes[node].name, &event)?;
                if matches!(event.what, Happening::Role { to: Role::Server, .. }) {
                    return Ok(node);
                }
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::new(1, "no node became the server in time"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn wait_until(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    while !holds() {
        if Instant::now() > deadline {
            return Err(Failure::new(1, format!("{what} did not come in {} s", patience.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn watch_snapshots(
    settings: &Settings,
    cluster: &mut DemoCluster,
    story: &mut Story,
    server: usize,
) -> Result<(), Failure> {
    let deadline = Instant::now() + SNAPSHOT_PATIENCE;
    // Those from before the first answer show a booting guest; the client must have been seen by some.
    let from = wall_ms();
    let mut durable = 0;
    while durable < settings.snapshots {
        for event in cluster.drain_events(server).await? {
            story.note(server, &cluster.nodes[server].name, &event)?;
            durable += u64::from(matches!(event.what, Happening::Durable { .. }) && event.time_ms > from);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(1, "the snapshots did not become durable in time"));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn watch_takeover(
    cluster: &mut DemoCluster,
    story: &mut Story,
    killed: usize,
) -> Result<usize, Failure> {
    let deadline = Instant::now() + TAKEOVER_PATIENCE;
    loop {
        for node in (0..cluster.nodes.len()).filter(|node| *node != killed) {
            for event in cluster.drain_events(node).await? {
                story.note(node, &cluster.nodes[node].name, &event)?;
                if matches!(event.what, Happening::Role { to: Role::Server, .. }) {
                    return Ok(node);
                }
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::new(1, "no node took over in time"));
        }
        tokio::time::sleep(LOOK).await;
    }
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
