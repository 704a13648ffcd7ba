//! What the demo tells: a line an event, with the time since the kill.

use serde_json::{Value, json};
use sustain_node::clock::wall_ms;
use sustain_node::events::{Happening, NodeEvent};
use sustain_node::logic::Role;
use sustain_node::operations::Failure;

use super::cluster::DemoCluster;
use super::judge::Verdict;
use super::visitor::Visits;
use crate::output::Output;

/// The teller; it also remembers what the verdict needs.
pub(crate) struct Story {
    output: Output,
    started_ms: u64,
    killed_ms: Option<u64>,
    /// All that was heard, with the node's number.
    pub(crate) heard: Vec<(usize, NodeEvent)>,
}

impl Story {
    /// A story that begins now.
    pub(crate) fn new(output: Output) -> Self {
        Self { output, started_ms: wall_ms(), killed_ms: None, heard: Vec::new() }
    }

    fn clock(&self, time_ms: u64) -> String {
        match self.killed_ms {
            Some(killed_ms) => format!("{:+7} ms", i128::from(time_ms) - i128::from(killed_ms)),
            None => format!("{:7.1} s ", time_ms.saturating_sub(self.started_ms) as f64 / 1_000.0),
        }
    }

    fn line(&self, time_ms: u64, who: &str, event: &str, words: &str, details: Value) -> Result<(), Failure> {
        if !self.output.is_json() {
            return self.output.line(&format!("{}  {who:8} {words}", self.clock(time_ms)));
        }
        let since_kill = self.killed_ms.map(|killed| i128::from(time_ms) - i128::from(killed));
        let value = json!({
            "event": event, "time_ms": time_ms, "node": who, "words": words, "details": details,
            "since_kill_ms": since_kill.and_then(|value| i64::try_from(value).ok()),
        });
        self.output.line(&value.to_string())
    }

    /// Tells something of the demo's own.
    pub(crate) fn tell(&mut self, event: &str, words: &str) -> Result<(), Failure> {
        self.line(wall_ms(), "demo", event, words, Value::Null)
    }

    /// Tells of the kill.
    pub(crate) fn kill(&mut self, name: &str, time_ms: u64, vm_pid: Option<u32>) -> Result<(), Failure> {
        self.killed_ms = Some(time_ms);
        let qemu = vm_pid.map_or_else(String::new, |pid| format!(" and its QEMU (process {pid})"));
        self.line(time_ms, "demo", "kill", &format!("kill -9 {name}{qemu}"), json!({"killed": name}))
    }

    /// Hears what the living nodes have to say, and tells what is worth a line, in the order of time.
    pub(crate) async fn listen(
        &mut self,
        cluster: &mut DemoCluster,
    ) -> Result<Vec<(usize, NodeEvent)>, Failure> {
        let mut told = Vec::new();
        for node in
            (0..cluster.nodes.len()).filter(|node| cluster.nodes[*node].is_alive()).collect::<Vec<_>>()
        {
            told.extend(cluster.drain_events(node).await?.into_iter().map(|event| (node, event)));
        }
        told.sort_by_key(|(_, event)| event.time_ms);
        for (node, event) in &told {
            if let Some((kind, words)) = words(&event.what) {
                let details = serde_json::to_value(&event.what).unwrap_or(Value::Null);
                self.line(event.time_ms, &cluster.nodes[*node].name, kind, &words, details)?;
            }
        }
        self.heard.extend(told.iter().cloned());
        Ok(told)
    }

    /// Tells what the client saw.
    pub(crate) fn told_by_client(&self, visits: &Visits) -> Result<(), Failure> {
        if let (Some(last), Some(look)) = (visits.before.last(), &visits.look) {
            let ago = look.answered_ms.saturating_sub(last.answered_ms);
            let (before, restored) = (last.answer.count, look.answer.count);
            let words =
                format!("first answer, {ago} ms after the last, which was {before}; restored: {restored}");
            let details = json!({"before": before, "restored": restored, "outage_ms": ago});
            self.line(look.answered_ms, "client", "first-answer", &words, details)?;
        }
        let Some(after) = &visits.after else { return Ok(()) };
        let words = format!("counts on: {}", after.answer.count);
        self.line(after.answered_ms, "client", "counts-on", &words, json!({"count": after.answer.count}))
    }

    /// Ends with the verdict.
    pub(crate) fn end(&self, verdict: &Verdict) -> Result<(), Failure> {
        self.output.result(verdict, |verdict| format!("\n{}", verdict.table()))
    }
}

/// The kind of an event that is worth a line, and the line.
fn words(what: &Happening) -> Option<(&'static str, String)> {
    let kind = match what {
        Happening::Role { from, to, .. } if from == to => return None,
        Happening::Role { to: Role::Server, .. } => "server",
        Happening::Role { .. } => "role",
        Happening::Snapshot { .. } => "snapshot",
        Happening::Durable { .. } => "durable",
        Happening::Startable { .. } => "startable",
        Happening::Gathered { .. } => "gathered",
        Happening::PassedOver { .. } => "passed-over",
        Happening::Restored { .. } => "restored",
        Happening::Woken { report, .. } if report.clock_before_ms.is_none() => return None,
        Happening::Woken { .. } => "woken",
        Happening::Rebased { .. } => "rebased",
        Happening::Mended { .. } => "mended",
        Happening::ShutOut { .. } => "shut-out",
        Happening::Problem { .. } => "problem",
        Happening::Peer { .. } => return None,
    };
    Some((kind, what.words()))
}
