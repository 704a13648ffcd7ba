//! The channel of the guest that runs here: its questions go through the logic, and the logic's answers and
//! wishes to the guest and to the VM's thread.

use std::collections::VecDeque;
use std::time::Instant;

use sustain_proto::{SnapshotId, Term};
use sustain_vmdriver::{ChannelInput, ChannelLink};

use super::driver::Driver;
use super::vm_thread::VmCommand;
use crate::clock;
use crate::logic::{AskedPace, Channel, ChannelOutput, ChannelView, SnapshotToken};

/// One VM's channel.
pub(super) struct GuestChannel {
    /// The reign in which the VM runs. What another VM's guest asked is not answered to this one's.
    term: Term,
    logic: Channel,
    link: ChannelLink,
    pace: AskedPace,
}

/// When things were last so, by this host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastTimes {
    /// All candidates were on line.
    pub(super) all_on_line_unix_ms: Option<u64>,
    /// A snapshot was taken; and, by a clock that never jumps, the guest went on after it.
    pub(super) taken: Option<(u64, Instant)>,
}

impl Driver {
    /// A VM runs, and its guest may ask from now on. `restored` is the snapshot's number, if its guest has the
    /// channel open and was restored.
    pub(super) fn open_channel(&mut self, term: Term, link: ChannelLink, restored: Option<u64>) {
        self.close_channel();
        let logic = Channel::default();
        self.channel = Some(GuestChannel { term, logic, link, pace: AskedPace::new(self.interval) });
        if let Some(seq) = restored {
            self.tell_guest(vec![Channel::restored(term, seq)]);
        }
    }

    /// The VM is gone.
    pub(super) fn close_channel(&mut self) {
        if let Some(channel) = self.channel.take() {
            // It waits for its threads, one of which may be waiting for this task to take a note.
            self.tasks.spawn_blocking(move || drop(channel));
        }
    }

    /// The guest says something.
    pub(super) fn guest_asked(&mut self, term: Term, input: ChannelInput) {
        let (now_ms, view) = (self.clock.now_ms(), self.channel_view());
        let Some(channel) = self.channel.as_mut().filter(|channel| channel.term == term) else { return };
        let outputs = match input {
            ChannelInput::Line(line) => channel.logic.line(now_ms, &line, &view),
            ChannelInput::TooLong => vec![Channel::line_too_long()],
            ChannelInput::Closed => Vec::new(),
        };
        self.tell_guest(outputs);
    }

    /// What became of a snapshot that the guest had asked for.
    pub(super) fn guest_snapshot_done(&mut self, token: SnapshotToken, outcome: Result<u64, String>) {
        let now_ms = self.clock.now_ms();
        let Some(channel) = &mut self.channel else { return };
        channel.pace.done(now_ms);
        let outputs = match outcome {
            Ok(seq) => channel.logic.taken(token, seq),
            Err(reason) => channel.logic.not_taken(token, &reason),
        };
        self.tell_guest(outputs);
    }

    /// A snapshot of this reign is durable, and all before it.
    pub(super) fn guest_durable(&mut self, term: Term, seq: u64) {
        let Some(channel) = self.channel.as_mut().filter(|channel| channel.term == term) else { return };
        let outputs = channel.logic.durable(seq);
        self.tell_guest(outputs);
    }

    /// Time passes.
    pub(super) fn channel_tick(&mut self) {
        if self.cluster.peers().iter().all(|peer| peer.reachable) {
            self.last_times.all_on_line_unix_ms = Some(clock::wall_ms());
        }
        let now_ms = self.clock.now_ms();
        let Some(channel) = &mut self.channel else { return };
        let outputs = channel.logic.tick(now_ms);
        self.tell_guest(outputs);
    }

    fn channel_view(&self) -> ChannelView {
        let watermark = self.machine.watermark();
        ChannelView {
            role: self.machine.role(),
            term: self.machine.following(),
            running_seq: watermark.as_ref().map(|heartbeat| heartbeat.running_seq),
            durable_seq: watermark.as_ref().and_then(|heartbeat| heartbeat.durable).map(durable_seq),
            level: watermark.as_ref().map_or(0, |heartbeat| heartbeat.level),
            all_on_line_unix_ms: self.last_times.all_on_line_unix_ms,
            taken_unix_ms: self.last_times.taken.map(|(unix_ms, _)| unix_ms),
            taken_ago_ms: self.last_times.taken.map(|(_, resumed)| clock::since_ms(resumed)),
        }
    }

    fn tell_guest(&mut self, outputs: Vec<ChannelOutput>) {
        let now_ms = self.clock.now_ms();
        let Some(channel) = &mut self.channel else { return };
        let mut outputs = VecDeque::from(outputs);
        loop {
            let Some(output) = outputs.pop_front() else {
                // What had to wait is begun at a later tick.
                let Some(token) = channel.pace.begin(now_ms) else { return };
                if !self.vm.tell(VmCommand::Snapshot { token }) {
                    channel.pace.done(now_ms);
                    outputs.extend(channel.logic.not_taken(token, "the node is busy"));
                }
                continue;
            };
            match output {
                ChannelOutput::Say(line) => {
                    if !channel.link.send(&line) {
                        tracing::debug!(service = %self.service, "the guest does not read its channel");
                    }
                }
                ChannelOutput::TakeSnapshot(token) => channel.pace.ask(token),
            }
        }
    }
}

fn durable_seq(durable: (SnapshotId, u64)) -> u64 {
    durable.1
}
