//! The actions of a service's state machine, turned into I/O.

use std::time::Duration;

use sustain_gossip::{ErrorKind, Started};
use sustain_proto::wire::{Heartbeat, Message, Request, Response, SnapshotSummary};
use sustain_proto::{SnapshotId, Term, TermOrigin};

use super::client::Followed;
use super::driver::Driver;
use super::handle::{Command, Target};
use super::trouble::Trouble;
use super::vm_thread::VmCommand;
use crate::events::Happening;
use crate::logic::{Action, Event};
use sustain_store::error_chain;

impl Driver {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Heartbeat(heartbeat) => self.beat(heartbeat),
            Action::Poll { round, lost } => self.poll(round, lost),
            Action::Claim { term, origin } => self.claim(term, origin),
            Action::PassedOver { passed, instead } => self.pass_over(&passed, &instead),
            Action::Gather { term, snapshot } => self.gather(term, snapshot),
            Action::Prepare { term, snapshot } => {
                let remote = self.startable.take().filter(|(of, _)| *of == term).map(|(_, remote)| remote);
                self.tell_vm(term, VmCommand::Prepare { term, snapshot, remote });
            }
            Action::Resume { term, origin, parent } => {
                self.tell_vm(term, VmCommand::Resume { term, origin, parent });
            }
            Action::Boot { term } => self.tell_vm(term, VmCommand::Boot { term }),
            Action::Stop => {
                if let Some(gather) = self.gather.take() {
                    gather.abort();
                }
                self.startable = None;
                self.vm_gone();
                if !self.vm.tell(VmCommand::Stop) {
                    tracing::error!(service = %self.service, "the VM's thread can't be told to stop the VM");
                }
            }
            Action::Follow { term } => {
                if term.is_some() {
                    self.troubles.end(&[Trouble::Lost, Trouble::Gather]);
                }
                let followed = term.map(|term| Followed { term, origin: self.machine.origin(&term) });
                let target = match followed {
                    None => Target::Nowhere,
                    Some(own) if own.term.node == self.cluster.node_id() => {
                        self.ports.clone().map_or(Target::Nowhere, |ports| Target::Here(own, ports))
                    }
                    Some(other) => Target::Node(other),
                };
                self.target.send_replace(target);
            }
            Action::Changed { from, to, term, why } => {
                let service = self.service.clone();
                self.events.add(Happening::Role { service, from, to, term, why: why.to_owned() });
            }
        }
    }

    fn pass_over(&self, passed: &SnapshotSummary, instead: &SnapshotSummary) {
        let service = self.service.clone();
        let (snapshot, seq, instead_seq) = (passed.id, passed.seq, instead.seq);
        self.events.add(Happening::PassedOver { service, snapshot, seq, instead: instead.id, instead_seq });
        self.problem(format!(
            "snapshot {seq} ({}) failed on every node that could run it, and is passed over: the service goes on from \
             snapshot {instead_seq} ({}), and its work since then is lost to it. Snapshot {seq} stays in the stores",
            snapshot.short(),
            instead.id.short()
        ));
    }

    fn beat(&self, heartbeat: Heartbeat) {
        self.cluster.broadcast(&Message::Heartbeat(heartbeat));
    }

    fn poll(&self, round: u64, lost: Option<Term>) {
        let timeout = Duration::from_millis(self.timing.poll_ms);
        for peer in self.peers.iter().copied() {
            let (cluster, own) = (self.cluster.clone(), self.own.clone());
            let request = Request::Poll { service: self.service.clone(), lost };
            self.tasks.spawn(async move {
                let ballot = match cluster.request(peer, request, timeout).await {
                    Ok(Response::Ballot(ballot)) => Some(ballot),
                    Err(error) if error.kind() == ErrorKind::Refused => {
                        let _ = own.send(Command::Refused(peer)).await;
                        None
                    }
                    _ => None,
                };
                let _ = own.send(Command::Event(Event::Ballot { from: peer, round, ballot })).await;
            });
        }
    }

    fn claim(&self, term: Term, origin: Option<TermOrigin>) {
        let timeout = Duration::from_millis(self.timing.claim_ms);
        for peer in self.peers.iter().copied() {
            let (cluster, own) = (self.cluster.clone(), self.own.clone());
            let request = Request::Claim { service: self.service.clone(), term, origin };
            self.tasks.spawn(async move {
                if let Ok(Response::Claimed { greatest }) = cluster.request(peer, request, timeout).await {
                    if greatest > term {
                        let event = Event::Claimed { term: greatest, origin: None };
                        let _ = own.send(Command::Event(event)).await;
                    }
                }
            });
        }
    }

    fn gather(&mut self, term: Term, snapshot: SnapshotId) {
        let (cluster, own) = (self.cluster.clone(), self.own.clone());
        let (events, service) = (self.events.clone(), self.service.clone());
        let lazy = self.lazy_regions.clone();
        let task = self.tasks.spawn(async move {
            let command = match cluster.gather_to_start(snapshot, lazy).await {
                Ok(Started { report, remote: None }) => {
                    let bytes_fetched = report.bytes_fetched;
                    events.add(Happening::Gathered { service, snapshot, bytes_fetched });
                    Command::Event(Event::Gathered { term })
                }
                Ok(Started { report, remote: Some(remote) }) => {
                    let (bytes_fetched, bytes_left) = (report.bytes_fetched, remote.bytes_left());
                    events.add(Happening::Startable { service, snapshot, bytes_fetched, bytes_left });
                    Command::Startable { term, remote: remote.into() }
                }
                Err(error) => {
                    let what = error_chain(&error);
                    let _ = own.send(Command::Trouble(Trouble::Gather, what.clone())).await;
                    events.add(Happening::Problem { service: Some(service), what });
                    Command::Event(Event::GatherFailed { term, snapshot })
                }
            };
            let _ = own.send(command).await;
        });
        self.gather = Some(task.abort_handle());
    }

    fn tell_vm(&mut self, term: Term, command: VmCommand) {
        if !self.vm.tell(command) {
            self.problem("the VM's thread takes no commands".to_owned());
            let own = self.own.clone();
            self.tasks.spawn(async move {
                let _ = own.send(Command::Event(Event::StartFailed { term })).await;
            });
        }
    }
}
