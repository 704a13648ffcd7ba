//! Elections: asking, counting, claiming.

use std::collections::BTreeMap;

use rand::RngCore;
use sustain_proto::wire::{Ballot, SnapshotSummary};
use sustain_proto::{NodeId, Term, TermOrigin};

use super::machine::Machine;
use super::state::Reign;
use super::succession::{Candidate, Choice, Field};
use super::view::Obstacle;
use super::{Action, Stand, State};

impl Machine {
    /// Asks everyone. Allowed from any state but yielding.
    pub(super) fn elect(&mut self, now_ms: u64, lost: Option<Term>, why: &'static str) {
        self.round += 1;
        let mut awaited = self.reachable.clone();
        if let Some(lost) = lost {
            awaited.remove(&lost.node);
        }
        let state = State::Electing {
            round: self.round,
            lost,
            awaited,
            ballots: BTreeMap::new(),
            deadline_ms: now_ms + self.config.timing.poll_ms,
        };
        self.enter(state, lost, why);
        self.actions.push(Action::Poll { round: self.round, lost });
    }

    pub(super) fn ballot_arrived(
        &mut self,
        now_ms: u64,
        from: NodeId,
        of_round: u64,
        ballot: Option<Ballot>,
        random: &mut dyn RngCore,
    ) {
        let State::Electing { round, awaited, ballots, .. } = &mut self.state else { return };
        if of_round != *round || !self.config.peers.contains(&from) {
            return;
        }
        awaited.remove(&from);
        if let Some(ballot) = ballot {
            ballots.insert(from, ballot);
        }
        if awaited.is_empty() {
            self.count(now_ms, random);
        }
    }

    /// Decides the election with the ballots that are there.
    pub(super) fn count(&mut self, now_ms: u64, random: &mut dyn RngCore) {
        let State::Electing { lost, ballots, .. } = &mut self.state else { return };
        let (lost, ballots) = (*lost, std::mem::take(ballots));
        for ballot in ballots.values() {
            self.greatest = self.greatest.max(ballot.term_known);
            for summary in &ballot.snapshots {
                self.learn_term(summary.term, summary.origin);
            }
        }
        if self.objected(lost.or(self.greatest), &ballots) {
            // Soon again: the last heartbeats of a dead server grow stale quickly.
            let patient_until_ms = now_ms + self.config.timing.fresh_ms / 2;
            self.enter(State::Candidate { patient_until_ms }, lost, "another node hears a server");
            return;
        }
        if lost.is_none() && !self.enough(now_ms, ballots.len()) {
            self.obstacle = Some(Obstacle::TooFewAnswer {
                answered: ballots.len() + 1,
                nodes: self.config.peers.len() + 1,
            });
            self.back_off(now_ms, "too few nodes answer to know the newest state");
            return;
        }
        let known = self.all_known(&ballots);
        let Some(choice) = self.choose(now_ms, &known, lost, &ballots) else {
            self.start_first(now_ms, &known, &ballots, random);
            return;
        };
        match self.rule.pick(&choice.stands) {
            Some(node) if node == self.config.node => {
                let instead = choice.snapshot;
                for passed in choice.passed_over {
                    self.actions.push(Action::PassedOver { passed, instead });
                }
                self.claim(now_ms, Some(instead), &ballots, random);
            }
            Some(_) => {
                self.obstacle = None;
                self.back_off(now_ms, "another node is to take over");
            }
            None => {
                self.obstacle = Some(Obstacle::NobodyStands);
                self.back_off(now_ms, "no node can take over");
            }
        }
    }

    /// What is restored, and by whom.
    fn choose(
        &self,
        now_ms: u64,
        known: &[SnapshotSummary],
        lost: Option<Term>,
        ballots: &BTreeMap<NodeId, Ballot>,
    ) -> Option<Choice> {
        let mut candidates: Vec<Candidate> = ballots
            .iter()
            .filter(|(_, ballot)| ballot.able)
            .map(|(node, ballot)| Candidate {
                stand: Stand { priority: ballot.priority, node: *node },
                eligible: ballot.eligible,
                failed: ballot.failed.iter().map(|snapshot| (*snapshot, 1)).collect(),
            })
            .collect();
        if self.able() {
            let failed = self.failures.list().into_iter();
            candidates.push(Candidate {
                stand: Stand { priority: self.config.priority, node: self.config.node },
                eligible: self.eligible(now_ms),
                failed: failed.map(|snapshot| (snapshot, self.failures.count(snapshot))).collect(),
            });
        }
        let unheard = self.reachable.iter().any(|peer| !ballots.contains_key(peer));
        let lineage = &self.lineage;
        Field { known, lineage, lost, candidates: &candidates, unheard }.choose()
    }

    /// Whether a voter hears the missed server, or a later one; after a restart, the greatest one known. A
    /// voter that hears this very node is mistaken: it no longer serves, or it would not ask.
    fn objected(&self, lost: Option<Term>, ballots: &BTreeMap<NodeId, Ballot>) -> bool {
        ballots
            .values()
            .filter_map(|ballot| ballot.hears)
            .any(|hears| hears.node != self.config.node && lost.is_none_or(|lost| hears >= lost))
    }

    /// Whether a node that has heard no server since it started may decide alone what the newest state is.
    /// A durable snapshot is on several nodes, of which a majority has at least one; whoever waits for
    /// others in vain serves in the end all the same.
    fn enough(&self, now_ms: u64, answered: usize) -> bool {
        let all = self.config.peers.len() + 1;
        let waited_ms = now_ms.saturating_sub(self.started_ms);
        2 * (answered + 1) > all || waited_ms >= self.config.timing.lonely_ms
    }

    fn all_known(&self, ballots: &BTreeMap<NodeId, Ballot>) -> Vec<SnapshotSummary> {
        let voted = ballots.values().flat_map(|ballot| ballot.snapshots.iter());
        let all = self.known.iter().chain(voted);
        all.filter(|summary| !self.unrestorable.contains(&summary.id)).copied().collect()
    }

    /// Nothing can be restored: the first server boots the service, unless states exist somewhere that
    /// are merely out of reach.
    fn start_first(
        &mut self,
        now_ms: u64,
        known: &[SnapshotSummary],
        ballots: &BTreeMap<NodeId, Ballot>,
        random: &mut dyn RngCore,
    ) {
        let untouched = known.is_empty() && self.unrestorable.is_empty();
        if self.config.first && untouched && self.eligible(now_ms) {
            self.claim(now_ms, None, ballots, random);
        } else {
            self.obstacle = Some(Obstacle::NothingToRestore);
            self.back_off(now_ms, "there is nothing to restore");
        }
    }

    fn back_off(&mut self, now_ms: u64, why: &'static str) {
        let patient_until_ms = now_ms + self.config.timing.claim_ms;
        self.enter(State::Candidate { patient_until_ms }, self.greatest, why);
    }

    fn claim(
        &mut self,
        now_ms: u64,
        from: Option<SnapshotSummary>,
        ballots: &BTreeMap<NodeId, Ballot>,
        random: &mut dyn RngCore,
    ) {
        let counter = self.greatest.map_or(0, |greatest| greatest.counter).saturating_add(1);
        let term = Term { counter, node: self.config.node, nonce: random.next_u64() };
        let origin = from.map(|summary| TermOrigin { parent: summary.term, seq: summary.seq });
        let reign = Reign { term, origin, parent: from.map(|summary| summary.id) };
        self.learn_term(term, origin);
        self.watermark = Some(self.first_watermark(&reign, ballots));
        self.heard = None;
        self.obstacle = None;
        match from {
            Some(summary) => {
                self.enter(State::Gathering(reign), Some(term), "elected");
                self.actions.push(Action::Claim { term, origin });
                self.actions.push(Action::Gather { term, snapshot: summary.id });
            }
            None => {
                self.enter(State::Restoring(reign), Some(term), "the first server of a new service");
                self.actions.push(Action::Claim { term, origin });
                self.actions.push(Action::Boot { term });
            }
        }
        self.actions.push(Action::Follow { term: None });
        self.beat(now_ms, &reign);
    }
}
