//! The verdict: what was measured, and whether the count went on from the durable snapshot.

use serde::Serialize;
use sustain_node::events::{Happening, NodeEvent};
use sustain_node::logic::Role;
use sustain_node::operations::Failure;

use super::story::Story;
use super::visitor::Visits;
use crate::text;

/// What the demo did.
pub(crate) struct Facts {
    /// Nodes of the cluster.
    pub(crate) nodes: usize,
    /// The node that took over.
    pub(crate) successor: usize,
    /// When the server was killed.
    pub(crate) killed_ms: u64,
    /// Whether the killed node came back as a candidate without a VM.
    pub(crate) returned: bool,
}

/// The demo's last words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// Nodes of the cluster.
    pub(crate) nodes: usize,
    /// Snapshots taken before the kill.
    pub(crate) snapshots: usize,
    /// Median pause of the guest for a snapshot.
    pub(crate) pause_ms_median: f64,
    /// From the kill to the first node that misses the server.
    pub(crate) detect_ms: u64,
    /// From there to the winner's claim.
    pub(crate) elect_ms: u64,
    /// From the claim until the snapshot was whole at the winner.
    pub(crate) gather_ms: u64,
    /// From there until the VM ran.
    pub(crate) restore_ms: u64,
    /// From the client's last answer to its first one after the kill.
    pub(crate) outage_ms: u64,
    /// The last count that the client got before the kill.
    pub(crate) counter_before: u64,
    /// The count in the restored snapshot.
    pub(crate) counter_durable: u64,
    /// The first count after.
    pub(crate) counter_after: u64,
    /// Number of the restored snapshot.
    pub(crate) restored_seq: u64,
    /// Number of the newest snapshot that was known to be durable before the kill.
    pub(crate) durable_seq: u64,
    /// Whether the guest was resumed: its kernel's boot id is the same as before.
    pub(crate) same_boot: bool,
    /// Whether the killed node came back as a candidate without a VM.
    pub(crate) returned_as_candidate: bool,
    /// Whether the count went on from the durable snapshot in the same boot.
    pub(crate) ok: bool,
}

fn missing(what: &str) -> Failure {
    Failure::new(1, format!("the demo has not seen {what}"))
}

/// Requests of the client that the restored guest may count without anybody having got the answer: one that was
/// in the guest's socket buffer when the snapshot was taken, and one that the node held during the outage.
const UNANSWERED_MAX: u64 = 2;

/// Judges what was seen.
pub(crate) fn judge(facts: &Facts, story: &Story, visits: &Visits) -> Result<Verdict, Failure> {
    let before = visits.before.iter().rfind(|visit| visit.asked_ms <= facts.killed_ms);
    let before = before.ok_or_else(|| missing("an answer before the kill"))?;
    let look = visits.look.as_ref().ok_or_else(|| missing("an answer after the kill"))?;
    let after = visits.after.as_ref().ok_or_else(|| missing("a count after the kill"))?;
    let last = visits.before.last().unwrap_or(before);

    let detected_ms = role_time(story, facts, None, Role::Electing)?;
    let claimed_ms = role_time(story, facts, Some(facts.successor), Role::Gathering)?;
    let gathered_ms = role_time(story, facts, Some(facts.successor), Role::Restoring)?;
    let served_ms = role_time(story, facts, Some(facts.successor), Role::Server)?;

    let events = || story.heard.iter().map(|(_, event)| event);
    let restored_seq = events().rev().find_map(|event| match event.what {
        Happening::Restored { seq, .. } => Some(seq),
        _ => None,
    });
    let restored_seq = restored_seq.ok_or_else(|| missing("the restored snapshot's number"))?;
    let taken: Vec<Taken> =
        events().filter(|event| event.time_ms <= facts.killed_ms).filter_map(taken).collect();
    let durable_seq = events().filter(|event| event.time_ms <= facts.killed_ms).filter_map(durable_seq).max();
    let durable_seq = durable_seq.ok_or_else(|| missing("a durable snapshot"))?;

    let same_boot =
        look.answer.boot_id == before.answer.boot_id && after.answer.boot_id == before.answer.boot_id;
    let counter_durable = look.answer.count;
    // A snapshot holds every count that was answered before it began, and no more than one that was not.
    let begun_ms = taken.iter().find(|taken| taken.seq == restored_seq).map(|taken| taken.begun_ms);
    let answered =
        visits.before.iter().take_while(|visit| begun_ms.is_some_and(|begun| visit.answered_ms < begun));
    let at_least = answered.last().map_or(0, |visit| visit.answer.count);
    let from_snapshot = counter_durable >= at_least && counter_durable <= last.answer.count + 1;
    let went_on = (1..=1 + UNANSWERED_MAX).contains(&after.answer.count.saturating_sub(counter_durable));
    Ok(Verdict {
        nodes: facts.nodes,
        snapshots: taken.len(),
        pause_ms_median: median(taken.iter().map(|taken| taken.pause_ms).collect()),
        detect_ms: detected_ms.saturating_sub(facts.killed_ms),
        elect_ms: claimed_ms.saturating_sub(detected_ms),
        gather_ms: gathered_ms.saturating_sub(claimed_ms),
        restore_ms: served_ms.saturating_sub(gathered_ms),
        outage_ms: look.answered_ms.saturating_sub(last.answered_ms),
        counter_before: last.answer.count,
        counter_durable,
        counter_after: after.answer.count,
        restored_seq,
        durable_seq,
        same_boot,
        returned_as_candidate: facts.returned,
        ok: same_boot && went_on && from_snapshot && restored_seq >= durable_seq && facts.returned,
    })
}

struct Taken {
    seq: u64,
    pause_ms: f64,
    begun_ms: u64,
}

fn taken(event: &NodeEvent) -> Option<Taken> {
    let Happening::Snapshot { seq, pause_ms, seconds, .. } = &event.what else { return None };
    // A snapshot that took longer than the clock goes back to is no snapshot of this run.
    let took_ms = (seconds * 1_000.0).ceil() as u64;
    Some(Taken { seq: *seq, pause_ms: *pause_ms, begun_ms: event.time_ms.saturating_sub(took_ms) })
}

fn durable_seq(event: &NodeEvent) -> Option<u64> {
    match event.what {
        Happening::Durable { seq, .. } => Some(seq),
        _ => None,
    }
}

/// When a node (or the first one) entered a role after the kill.
fn role_time(story: &Story, facts: &Facts, node: Option<usize>, role: Role) -> Result<u64, Failure> {
    let entered = story.heard.iter().filter(|(at, event)| {
        event.time_ms >= facts.killed_ms
            && node.is_none_or(|node| node == *at)
            && matches!(&event.what, Happening::Role { to, .. } if *to == role)
    });
    let first = entered.map(|(_, event)| event.time_ms).min();
    first.ok_or_else(|| missing(&format!("when a node became {}", role.as_str())))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Verdict {
    /// The verdict as a small table.
    pub(crate) fn table(&self) -> String {
        let row = |what: &str, value: String| vec![what.to_owned(), value];
        let ms = |value: u64| format!("{value} ms");
        let mut table = text::table(&[
            row("snapshots before the kill", self.snapshots.to_string()),
            row("pause of the guest, median", format!("{:.0} ms", self.pause_ms_median)),
            row("detect", ms(self.detect_ms)),
            row("elect", ms(self.elect_ms)),
            row("gather", ms(self.gather_ms)),
            row("restore", ms(self.restore_ms)),
            row("outage that the client saw", ms(self.outage_ms)),
            row("count before the kill", self.counter_before.to_string()),
            row(
                "count in the restored snapshot",
                format!("{} (snapshot {})", self.counter_durable, self.restored_seq),
            ),
            row("first count after", self.counter_after.to_string()),
            row("same boot of the guest", if self.same_boot { "yes" } else { "no" }.to_owned()),
        ]);
        table.push_str(if self.ok {
            "The service went on from its last durable state."
        } else {
            "The service did NOT go on from its last durable state."
        });
        table
    }
}
