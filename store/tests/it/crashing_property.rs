//! Random steps with crashes and faults in between, against the model.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::simulated_disk::{Fault, Simulated};
use crate::world::{Step, World};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

#[derive(Debug, Clone)]
enum Action {
    Do(Step),
    /// The power is cut at the call so many from here; what survives is chosen by the seed.
    Cut(u64, u64),
    /// The call so many from here fails; what it did is chosen by the seed.
    Fail(u64, Fault, u64),
}

fn step() -> impl Strategy<Value = Step> {
    // What is pushed here, and all: what is imported has numbers of its own.
    let pushed = 0..2_usize;
    let service = 0..3_usize;
    let back = 0..3_usize;
    prop_oneof![
        5 => (pushed.clone(), 0..100_usize, 0..4_u64).prop_map(|(s, at, seed)| Step::Push(s, at, seed)),
        5 => (pushed.clone(), 0..100_usize, 0..4_u64).prop_map(|(s, at, seed)| Step::PushChanges(s, at, seed)),
        1 => pushed.clone().prop_map(Step::Abandon),
        2 => (service.clone(), back.clone(), 1..3_u32).prop_map(|(s, back, level)| Step::Mark(s, back, level)),
        2 => (pushed.clone(), back.clone()).prop_map(|(s, back)| Step::Rebase(s, back)),
        1 => (pushed, back.clone(), 0..4_u64).prop_map(|(s, b, seed)| Step::RebaseAround(s, b, seed)),
        1 => (service.clone(), back).prop_map(|(s, back)| Step::Restore(s, back)),
        1 => (0..2_usize, 0..3_usize).prop_map(|(state, without)| Step::Receive(state, without)),
        1 => Just(Step::OpenPartial),
        2 => (0..2_usize).prop_map(Step::Import),
        1 => Just(Step::Retire),
        1 => service.prop_map(Step::Mend),
        2 => Just(Step::Reopen),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let fault = prop_oneof![Just(Fault::Fail(EIO)), Just(Fault::Fail(ENOSPC)), Just(Fault::Full)];
    prop_oneof![
        8 => step().prop_map(Action::Do),
        2 => (1..60_u64, any::<u64>()).prop_map(|(nth, seed)| Action::Cut(nth, seed)),
        1 => (1..60_u64, fault, any::<u64>()).prop_map(|(nth, fault, seed)| Action::Fail(nth, fault, seed)),
    ]
}

/// A cut or a fault waits for its call over the steps that follow, so that shrinking keeps it at its place.
fn run(actions: &[Action]) {
    let disk = Simulated::default();
    let mut world = World::new(disk.clone());
    let mut seed = 0;
    for (number, action) in actions.iter().enumerate() {
        let context = format!("{number}: {action:?}");
        match action {
            Action::Cut(nth, of) => {
                disk.arm(*nth, Fault::PowerCut, *of);
                seed = *of;
            }
            Action::Fail(nth, fault, of) => disk.arm(*nth, *fault, *of),
            Action::Do(step) => {
                let outcome = world.step(step);
                if disk.is_off() {
                    world.close();
                    disk.restart(seed);
                    world.check_reopened(&context);
                } else if let Err(error) = outcome {
                    assert!(disk.struck(), "{context}: fails without a reason: {error}");
                    world.check_open(&context);
                    // Space is made.
                    disk.disarm();
                } else if matches!(step, Step::Reopen) {
                    // What had failed before may have turned up.
                    disk.disarm();
                    world.check_reopened(&context);
                }
            }
        }
    }
    disk.disarm();
    world.check_open("at the end");
    world.check_reopened("at the end");
    world.works_on("at the end");
}

/// An import failed on a full disk, and what it had written was removed; an opening did not sync that, and with a
/// power cut it was back.
#[test]
fn what_a_failed_import_has_removed_stays_removed() {
    for nth in 1..60 {
        for seed in 0..4 {
            run(&[
                Action::Do(Step::Push(0, 0, 0)),
                Action::Fail(nth, Fault::Full, seed),
                Action::Do(Step::Import(0)),
                Action::Do(Step::Reopen),
                Action::Cut(1, seed),
                Action::Do(Step::Push(0, 0, 0)),
            ]);
        }
    }
}

/// The model once took it for one that stays: but a newer one was durable, and stayed.
#[test]
fn a_rebase_lets_go_of_a_durable_snapshot_if_a_newer_one_is_durable() {
    let push = || Action::Do(Step::Push(0, 0, 0));
    let actions = [push(), push(), push(), Action::Do(Step::Mark(0, 2, 1)), push()];
    run(&actions
        .into_iter()
        .chain([Step::Mark(0, 0, 1), Step::Rebase(0, 1)].map(Action::Do))
        .collect::<Vec<_>>());
}

/// How many cases are tried: the same few each time, or as many as is asked for, others each time.
fn config() -> ProptestConfig {
    match std::env::var("SUSTAIN_CRASH_CASES").ok().and_then(|text| text.parse().ok()) {
        Some(cases) => ProptestConfig { cases, ..ProptestConfig::default() },
        None => ProptestConfig { cases: 24, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() },
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn the_store_keeps_what_the_model_keeps_whatever_crashes(
        actions in proptest::collection::vec(action(), 1..30),
    ) {
        run(&actions);
    }
}
