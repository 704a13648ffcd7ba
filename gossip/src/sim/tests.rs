//! Simulations that everybody runs, and proof that each checker can find something.

use super::*;

fn nothing_found(seeds: impl Iterator<Item = u64>, size: Size) {
    for seed in seeds {
        let outcome = run(seed, size);
        assert!(
            outcome.violations.is_empty(),
            "{:?}\n{}\nreplay: SEED={seed} cargo run -p sustain-gossip --example sim -- {size:?} {seed} 1",
            outcome.violations,
            outcome.last.join("\n")
        );
        assert!(outcome.virtual_ms >= Scenario::least_ms(size), "seed {seed}: {} ms", outcome.virtual_ms);
        let least = if outcome.scenario.mix.count == 0 { 0 } else { Scenario::least_faults(size) };
        assert!(outcome.faults >= least, "seed {seed}: {} faults", outcome.faults);
    }
}

#[test]
fn dozens_of_small_clusters_keep_what_they_promise() {
    nothing_found(0..40, Size::Tiny);
}

#[test]
fn some_larger_clusters_keep_what_they_promise() {
    nothing_found(0..4, Size::Small);
}

#[test]
fn a_seed_replays_to_the_last_event() {
    for seed in [3, 6, 9] {
        let (one, other) = (run(seed, Size::Tiny), run(seed, Size::Tiny));
        assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
        assert_ne!(one.hash, run(seed + 1, Size::Tiny).hash);
    }
}

/// A node moved to a fragment that it had just fetched to make another one: it was here whole, so that it was neither
/// fetched nor synced, and the move never ended.
#[test]
fn a_fragment_that_was_fetched_for_another_one_is_synced_when_it_is_wanted() {
    nothing_found(717..718, Size::Small);
}

/// A node that started again knew no catalog, and dropped all parts that it had as if they were not retained.
#[test]
fn a_node_that_starts_again_keeps_its_parts() {
    nothing_found(30..31, Size::Tiny);
}

/// Whether a fault in the logic is found by a checker, with any of some seeds.
fn is_found(mutant: Mutant, checker: &str) {
    is_found_in(|seed| Scenario::of_seed(seed, Size::Tiny), mutant, checker);
}

fn is_found_in(scenario: impl Fn(u64) -> Scenario, mutant: Mutant, checker: &str) {
    assert!(names().contains(&checker));
    let mut others = Vec::new();
    for seed in 0..60 {
        let outcome = run_mutant(scenario(seed), Some(mutant));
        if outcome.violations.iter().any(|violation| violation.checker == checker) {
            return;
        }
        others.extend(outcome.violations.iter().map(|violation| (seed, violation.checker)));
    }
    panic!("{mutant:?} is not found by {checker}, but by {others:?}");
}

#[test]
fn who_acknowledges_before_it_has_synced_is_found() {
    is_found(Mutant::AcknowledgesBeforeSync, "durability");
}

#[test]
fn who_takes_half_a_part_for_all_of_it_is_found() {
    is_found(Mutant::TakesHalfForWhole, "durability");
}

#[test]
fn who_drops_what_the_server_counts_on_is_found() {
    is_found(Mutant::DropsUnasked, "durability");
}

#[test]
fn a_server_that_gives_everything_to_everybody_is_found() {
    is_found(Mutant::GivesToAll, "egress");
}

#[test]
fn who_never_mends_is_found() {
    is_found(Mutant::NeverMends, "coverage");
}

#[test]
fn who_fetches_anew_what_it_has_is_found() {
    is_found(Mutant::ForgetsItsDisk, "cost");
}

#[test]
fn who_keeps_news_to_itself_is_found() {
    is_found(Mutant::KeepsNewsToItself, "convergence");
}

#[test]
fn who_never_drops_anything_is_found() {
    is_found(Mutant::NeverDrops, "bounds");
}

#[test]
fn who_is_never_done_with_serving_is_found() {
    is_found(Mutant::NeverDoneServing, "liveness");
}

#[test]
fn who_has_no_patience_with_answers_is_found() {
    is_found(Mutant::Impatient, "alarms");
}

/// A server is cut off with others, and both sides go on.
fn split(seed: u64) -> Scenario {
    let mut scenario = Scenario::of_seed(seed, Size::Tiny);
    scenario.mix = Mix { count: 2, is_split: true, ..scenario.mix };
    scenario.warm = 2;
    scenario
}

#[test]
fn of_two_servers_that_go_on_apart_nothing_durable_is_lost() {
    for seed in 0..10 {
        let outcome = run_mutant(split(seed), None);
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}", outcome.violations);
    }
}

#[test]
fn who_drops_what_only_the_losing_line_lists_is_found() {
    is_found_in(split, Mutant::DropsLosers, "lines");
}
