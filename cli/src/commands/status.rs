//! `snapctl status`: a node, its peers and its services.

use std::collections::BTreeMap;

use clap::Args;
use sustain_gossip::membership::Health;
use sustain_gossip::{KeepingStatus, SnapshotLevel};
use sustain_node::admin::{NodeStatus, PeerView, RemovedView};
use sustain_node::operations::Failure;
use sustain_node::{Problem, ScrubStatus, ServiceStatus};
use sustain_proto::ServiceName;
use sustain_proto::human::counted;

use crate::output::Output;
use crate::text;
use crate::whereabouts::Choice;

/// Show the node, its peers, its services and what clients may rely on
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {}

pub(crate) fn run(_args: StatusArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let status: NodeStatus = choice.client()?.get("/v1/status")?;
    output.result(&status, words)?;
    Ok(0)
}

fn words(status: &NodeStatus) -> String {
    let mut text = format!(
        "cluster {}: {} at {}, id {}\n\n",
        status.cluster,
        status.name,
        status.address,
        status.id.short()
    );
    text.push_str(&nodes_words(status));
    for peer in &status.peers {
        if let Some(reason) = &peer.refuses {
            text.push_str(&format!("{} does not hold all snapshots from here: {reason}\n", peer.name));
        }
    }
    // What survives is the newest durable snapshot, not the newest.
    let header = [
        "service",
        "role",
        "term",
        "server",
        "newest",
        "durable",
        "which survives",
        "held",
        "pause",
        "listens",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(status.services.iter().map(|service| service_row(status, service)));
    text.push('\n');
    let table = text::table(&rows);
    let problems =
        std::iter::once(None).chain(status.services.iter().map(|service| service.problem.as_ref()));
    for (line, problem) in table.lines().zip(problems) {
        text.push_str(line);
        text.push('\n');
        if let Some(Problem { what, age_ms }) = problem {
            let age = text::seconds(*age_ms as f64 / 1_000.0);
            text.push_str(&format!("  problem: {what} (for {age})\n"));
        }
    }
    text.push_str(&keeping_words(status.keeping.as_ref()));
    text.push_str(&scrub_words(&status.scrub));
    for service in &status.services {
        text.push_str(&warnings(service));
        if let Some(left) = service.bytes_left {
            let (name, left) = (&service.service, text::bytes(left));
            text.push_str(&format!(
                "\n{name}: {left} of the restored disk come later; no snapshots until then\n"
            ));
        }
    }
    text
}

/// What the node holds for the cluster, what it lacks, and how safe each snapshot is that it is the server of.
fn keeping_words(keeping: Option<&KeepingStatus>) -> String {
    let Some(keeping) = keeping else {
        return "\nwhat this node keeps for the cluster can't be said now\n".to_owned();
    };
    let mut text = format!("\nkeeps {} as packs", text::bytes(keeping.pack_bytes));
    if keeping.needed > 1 || keeping.fragment_bytes > 0 {
        let index = keeping.index.map_or_else(|| "none yet".to_owned(), |index| index.to_string());
        let (bytes, needed) = (text::bytes(keeping.fragment_bytes), keeping.needed);
        text.push_str(&format!(
            " and {bytes} as fragments with number {index}, of which {needed} make a pack"
        ));
        text.push_str(&format!("; its neighbourhood has {} more than it needs", keeping.margin));
    }
    if keeping.missing_parts > 0 {
        let parts = counted(keeping.missing_parts as u64, "part is", "parts are");
        text.push_str(&format!("; {parts} still to come"));
    }
    if keeping.short_bytes > 0 {
        let bytes = text::bytes(keeping.short_bytes);
        text.push_str(&format!("; its limit on storage leaves out {bytes}"));
    }
    text.push('\n');
    for (service, counts) in levels(&keeping.snapshots) {
        let counts: Vec<String> = counts
            .into_iter()
            .map(|(survives, count)| match survives {
                None => format!("{count} on no other node"),
                Some(losses) => format!("{count} survive {}", counted(losses.into(), "loss", "losses")),
            })
            .collect();
        text.push_str(&format!("snapshots of {service}: {}\n", counts.join(", ")));
    }
    text
}

/// How many snapshots of each service survive how many losses.
fn levels(snapshots: &[SnapshotLevel]) -> BTreeMap<&ServiceName, BTreeMap<Option<u32>, usize>> {
    let mut levels: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
    for snapshot in snapshots {
        *levels.entry(&snapshot.service).or_default().entry(snapshot.survives).or_default() += 1;
    }
    levels
}

/// When the packs were last checked, and what is wrong with them.
fn scrub_words(scrub: &ScrubStatus) -> String {
    let now_ms = sustain_node::clock::wall_ms();
    let ago = |ms: u64| format!("{} ago", text::seconds(now_ms.saturating_sub(ms) as f64 / 1_000.0));
    let (all, checked) = (scrub.packs, scrub.packs.saturating_sub(scrub.packs_unchecked));
    let mut text = match scrub.full_ms {
        _ if all == 0 => "\nthere are no packs to check yet".to_owned(),
        Some(ms) if checked == all => format!("\nall packs were last checked {}", ago(ms)),
        Some(ms) if checked == 0 => {
            format!("\nno pack was checked yet: those that are here came after the last pass, {}", ago(ms))
        }
        Some(ms) => {
            let ago = ago(ms);
            format!("\n{checked} of {all} packs were checked; the others came after the last pass, {ago}")
        }
        None => format!("\n{checked} of {all} packs were checked so far"),
    };
    if scrub.began_ms.is_some() && scrub.bytes_total > 0 {
        let percent = u128::from(scrub.bytes_done) * 100 / u128::from(scrub.bytes_total);
        text.push_str(&format!("; {percent}% of a pass are done"));
    }
    if !scrub.enabled {
        text.push_str("; scrubbing is off");
    }
    if scrub.mended > 0 {
        let packs = counted(scrub.mended, "bad pack was", "bad packs were");
        text.push_str(&format!("; {packs} sent again"));
    }
    text.push('\n');
    for bad in &scrub.bad {
        let snapshots = counted(bad.snapshots.len() as u64, "snapshot needs", "snapshots need");
        text.push_str(&format!("bad: pack {}: {}; {snapshots} it\n", bad.id.short(), bad.reason));
    }
    text
}

/// What the numbers of the table don't show: they stand still together.
fn warnings(service: &ServiceStatus) -> String {
    let mut text = String::new();
    let name = &service.service;
    if service.stalled {
        text.push_str(&format!(
            "\n{name}: the guest stands still, since its disk can't be read or written now\n"
        ));
    }
    if let Some(age_ms) = service.snapshot_age_ms.filter(|_| service.snapshot_late) {
        let seconds = age_ms / 1_000;
        text.push_str(&format!(
            "\n{name}: no snapshot for {seconds} s; what the guest did since then is on this node only\n"
        ));
    }
    text
}

/// The node table, and who is lost or was removed.
fn nodes_words(status: &NodeStatus) -> String {
    let header = ["node", "id", "address", "domain", "priority", "state", "health", "neighbour", "rtt"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(status.peers.iter().map(peer_row));
    let mut text = text::table(&rows);
    let since = |ms: u64| text::seconds(ms as f64 / 1_000.0);
    let lost = status.peers.iter().filter(|peer| !peer.reachable);
    let lost: Vec<String> = lost.map(|peer| format!("{} (for {})", peer.name, since(peer.for_ms))).collect();
    if !lost.is_empty() {
        text.push_str(&format!("lost: {}\n", lost.join(", ")));
    }
    let name = |it: &RemovedView| it.name.clone().unwrap_or_else(|| it.id.short());
    let removed: Vec<String> = status.removed.iter().map(name).collect();
    if !removed.is_empty() {
        text.push_str(&format!("removed: {}\n", removed.join(", ")));
    }
    text
}

fn peer_row(peer: &PeerView) -> Vec<String> {
    let state = if peer.reachable { "reachable" } else { "lost" };
    let neighbour = if peer.neighbour { "yes" } else { "no" };
    let health = match peer.health {
        Health::Alive => "alive".to_owned(),
        health => {
            format!("{} for {}", health.as_str(), text::seconds(peer.health_for_ms as f64 / 1_000.0))
        }
    };
    vec![
        peer.name.clone(),
        peer.id.short(),
        peer.address.clone(),
        if peer.domain.is_empty() { "-".to_owned() } else { peer.domain.clone() },
        peer.priority.to_string(),
        state.to_owned(),
        health,
        neighbour.to_owned(),
        peer.rtt_ms.filter(|_| peer.reachable).map_or_else(|| "-".to_owned(), |rtt| format!("{rtt} ms")),
    ]
}

fn service_row(status: &NodeStatus, service: &ServiceStatus) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let name = |id| {
        let peer = status.peers.iter().find(|peer| peer.id == id).map(|peer| peer.name.clone());
        peer.unwrap_or_else(|| status.name.clone())
    };
    vec![
        service.service.to_string(),
        service.role.as_str().to_owned(),
        service.term.map_or_else(|| "-".to_owned(), |term| term.counter.to_string()),
        service.server.map_or_else(|| "-".to_owned(), name),
        number(service.running_seq),
        number(service.durable_seq),
        match service.durable_survives {
            None => "-".to_owned(),
            Some(losses) => counted(losses.into(), "loss", "losses"),
        },
        service.snapshots_held.to_string(),
        service.pause_ms_median.map_or_else(|| "-".to_owned(), |pause| format!("{pause:.0} ms")),
        service.listen.map_or_else(|| "-".to_owned(), |listen| listen.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass that had met no pack made all that came later count as checked.
    #[test]
    fn only_what_a_pass_has_met_counts_as_checked() {
        let words = |full_ms, packs, packs_unchecked| {
            scrub_words(&ScrubStatus {
                enabled: true,
                full_ms,
                packs,
                packs_unchecked,
                mended: 2,
                ..ScrubStatus::default()
            })
        };
        for (full_ms, packs, unchecked, expected) in [
            (Some(1), 0, 0, "there are no packs to check yet; 2 bad packs were sent again"),
            (Some(1), 3, 0, "all packs were last checked"),
            (Some(1), 3, 3, "no pack was checked yet: those that are here came after the last pass"),
            (Some(1), 3, 1, "2 of 3 packs were checked; the others came after the last pass"),
            (None, 3, 1, "2 of 3 packs were checked so far"),
        ] {
            let text = words(full_ms, packs, unchecked);
            assert!(text.contains(expected), "{text}");
        }
    }
}
