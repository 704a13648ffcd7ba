//! Logic: one simulation from its start to its end.

use super::check::{Occasion, Violation};
use super::scenario::{Scenario, Size};
use super::world::{Coming, Mutant, World};
use crate::code::Code;
use crate::holdings::{Holdings, View};
use crate::keeper::{Claim, Event, Message};
use crate::overlay::{Members, Overlay};

/// Events that a violation is shown with.
const LINES_SHOWN: usize = 100;

/// What came of a simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What was simulated.
    pub scenario: Scenario,
    /// Events that happened.
    pub events: u64,
    /// A number that is the same for two runs of a seed.
    pub hash: u64,
    /// Virtual time.
    pub virtual_ms: u64,
    /// Faults that happened.
    pub faults: usize,
    /// What did not hold; the run ends with the first.
    pub violations: Vec<Violation>,
    /// The last events before that.
    pub last: Vec<String>,
    /// Bytes of all packs that were made.
    pub made_bytes: u64,
    /// Bytes of all messages with catalogs, and what they would have been if each had all of its catalog.
    pub catalog_bytes: (u64, u64),
    /// Bytes on all disks at the end, and those of what is retained.
    pub stored_bytes: (u64, u64),
}

/// Simulates what a seed stands for.
#[must_use]
pub fn run(seed: u64, size: Size) -> Outcome {
    simulate(Scenario::of_seed(seed, size), None, LINES_SHOWN)
}

/// The same, with so many of its last events in words.
#[must_use]
pub fn run_traced(seed: u64, size: Size, lines_max: usize) -> Outcome {
    simulate(Scenario::of_seed(seed, size), None, lines_max)
}

/// Simulates a scenario with a fault in the logic, or none.
#[must_use]
pub fn run_mutant(scenario: Scenario, mutant: Option<Mutant>) -> Outcome {
    simulate(scenario, mutant, LINES_SHOWN)
}

fn simulate(scenario: Scenario, mutant: Option<Mutant>, lines_max: usize) -> Outcome {
    let (faults_ms, heal_ms) = (scenario.faults_ms, scenario.heal_ms);
    let mut world = World::new(scenario, mutant, lines_max);
    world.set_up();
    world.run(faults_ms);
    world.heal();
    // The last snapshot is taken while there is still time for it to spread.
    world.run(faults_ms + heal_ms / 3);
    world.is_publishing = false;
    world.run(faults_ms + heal_ms);
    if world.violations.is_empty() {
        world.check(&Occasion::Healed);
        world.check(&Occasion::Ended);
    }
    let stored =
        world.nodes.keys().filter_map(|node| world.disks.get(*node)).map(super::disk::Disk::bytes).sum();
    let keeper = world.nodes.get(&world.main.server).and_then(|node| node.keeper.as_ref());
    let retained =
        keeper.and_then(|keeper| keeper.catalog(&world.service_name)).map_or(0, |catalog| catalog.bytes());
    Outcome {
        events: world.trace.events(),
        hash: world.trace.hash(),
        virtual_ms: world.now_ms,
        faults: world.faults,
        last: if world.violations.is_empty() { Vec::new() } else { world.trace.last() },
        made_bytes: world.main.service.made.iter().map(|(_, bytes)| bytes).sum(),
        catalog_bytes: world.catalog_bytes,
        stored_bytes: (stored, retained),
        violations: world.violations,
        scenario: world.scenario,
    }
}

impl World {
    /// All nodes start, and what is to happen is planned.
    fn set_up(&mut self) {
        for _ in 0..self.scenario.nodes {
            self.add_node();
        }
        let warm = u32::try_from(self.scenario.warm).unwrap_or(0);
        self.warm = (1..=warm).filter(|number| self.nodes.contains_key(number)).collect();
        let liars = u32::try_from(self.scenario.liars).unwrap_or(0);
        for number in self.warm.len() as u32 + 1..=self.warm.len() as u32 + liars {
            if let Some(node) = self.nodes.get_mut(&number) {
                node.is_liar = true;
            }
        }
        let claims = if self.scenario.is_settled { self.settled_claims() } else { Vec::new() };
        for claim in &claims {
            let number = self.numbers.get(&claim.node).copied().unwrap_or(0);
            self.disks.of(number).claim = Some(*claim);
        }
        self.start_all(&claims);
        for (at_ms, fault) in self.plan_faults() {
            self.after(at_ms, Coming::Fault(fault));
        }
        self.after(3_000, Coming::Snapshot);
        self.after(1_000, Coming::Look);
    }

    /// Claims as they are in a cluster that grew one node after the other.
    fn settled_claims(&self) -> Vec<Claim> {
        let members: Members = self.nodes.values().map(|node| (node.id, node.label.clone())).collect();
        let (degree, tolerance) = (self.scenario.degree, self.scenario.tolerance);
        let overlay = Overlay::new(&members, degree);
        let code = Code::for_cluster(members.len(), degree, tolerance);
        let code = if code.is_whole() { Code { needed: 2, total: 3 * degree } } else { code };
        let mut holdings = Holdings::default();
        for node in self.nodes.values() {
            let to = View { overlay: &overlay, holdings: &holdings, code, tolerance }.choose(node.id);
            holdings.set(to.node, to.to);
        }
        for _ in 0..20 {
            for node in self.nodes.values() {
                let to = View { overlay: &overlay, holdings: &holdings, code, tolerance }.mend(node.id);
                if let Some(to) = to {
                    holdings.set(to.node, to.to);
                }
            }
        }
        let claim = |node| Claim { node, life: 0, number: 1, index: holdings.of(&node), moving: None };
        self.nodes.values().map(|node| claim(node.id)).collect()
    }

    fn start_all(&mut self, claims: &[Claim]) {
        let numbers: Vec<_> = self.nodes.keys().copied().collect();
        // All are there at once: nobody has to hear of each other one by one.
        let alive: Vec<_> = self.nodes.values().map(|node| (node.id, node.label.clone())).collect();
        for number in numbers.iter().copied() {
            self.check(&Occasion::Started(number));
            self.start_quietly(number, &alive);
            if !claims.is_empty() {
                let from = alive[0].0;
                let message = Message::Claims { claims: claims.to_vec(), differing: 0 };
                self.give(number, Event::Message { from, message });
            }
        }
    }

    /// Faults end, and whoever is down starts.
    fn heal(&mut self) {
        if !self.net.island.is_empty() {
            self.net.island.clear();
            self.reunite();
            self.cut_ms = Some(self.now_ms);
        }
        self.net.one_way.clear();
        self.net.link.loss = self.net.link.loss.min(0.01);
        self.net.link.broken = self.net.link.broken.min(0.01);
        let all: Vec<_> = self.nodes.keys().copied().collect();
        for number in all {
            if let Some(node) = self.nodes.get_mut(&number) {
                node.stalled_until_ms = node.stalled_until_ms.min(self.now_ms);
            }
            self.start(number);
        }
        self.detect_all();
        self.note_fault(self.main.server, "faults end");
    }
}
