//! A failing call, or a power cut, at every single call of a script: what was acknowledged is there bit for bit, all
//! else is gone without trace, and the store works on.
//!
//! A part of it runs with every `cargo test`; `SUSTAIN_CRASH_SEEDS=8` tries every call with so many seeds each.

use crate::simulated_disk::{Fault, Simulated};
use crate::world::{Step, World};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Pushes of three services, whole and in parts; rebases of the newest and of an older snapshot, with a push in
/// between; a restore from a part of the packs; imports, and the retirement that follows them; a pack that goes bad.
fn script() -> Vec<Step> {
    vec![
        Step::Push(0, 0, 1),
        Step::PushChanges(0, 30, 2),
        Step::Push(1, 50, 3),
        Step::Push(0, 60, 0),
        Step::Mark(0, 0, 1),
        Step::OpenPartial,
        Step::Rebase(0, 1),
        Step::Abandon(0),
        Step::PushChanges(1, 70, 4),
        Step::Import(0),
        Step::RebaseAround(0, 0, 5),
        Step::Mark(0, 0, 2),
        Step::Reopen,
        Step::Receive(1, 1),
        Step::Mend(1),
        Step::Import(1),
        Step::Retire,
        Step::Restore(2, 0),
        Step::Rebase(1, 0),
        Step::Push(2, 20, 6),
        Step::PushChanges(0, 80, 7),
    ]
}

/// One run of the script with one fault. What is chosen by chance is chosen by the seed.
#[derive(Debug, Clone, Copy)]
struct Run {
    fault: Fault,
    nth: u64,
    seed: u64,
    /// Crash again at each call of the recovery.
    recover: bool,
    /// Two processes do the steps in turn.
    two: bool,
}

impl Run {
    /// Whether the script was long enough for the fault to strike.
    fn go(self, script: &[Step]) -> bool {
        let Self { fault, nth, seed, recover, two } = self;
        let disk = Simulated::default();
        disk.arm(nth, fault, seed);
        let mut world = World::new(disk.clone());
        world.two = two;
        world.may_lose_marks = fault == Fault::ShortRead;
        let mut failed = false;
        for step in script {
            let context = format!("{self:?} {step:?}");
            let struck_before = disk.struck();
            let outcome = world.step(step);
            if disk.is_off() {
                break;
            }
            let Err(error) = outcome else { continue };
            assert!(disk.struck(), "{context}: fails without a reason: {error}");
            let may_fail =
                !struck_before || matches!(fault, Fault::Dead(_)) || fault == Fault::Full && !failed;
            assert!(may_fail, "{context}: fails though the fault is over: {error}");
            failed = true;
            world.check_open(&context);
            if fault == Fault::Full {
                disk.disarm();
            }
        }
        let struck = disk.struck();
        disk.disarm();
        // With the seed's help: the power goes, or the store is closed in peace.
        if fault == Fault::PowerCut || seed % 2 == 1 {
            disk.cut();
            world.close();
            disk.restart(seed + nth * 1_000);
        }
        if recover {
            self.recover(&disk);
        }
        let context = format!("{self:?}");
        world.check_reopened(&context);
        world.works_on(&context);
        struck
    }

    /// Cuts the power at the first call of an opening, at the second of the next one, and so on, until one gets
    /// through.
    fn recover(self, disk: &Simulated) {
        for call in 1.. {
            disk.arm(call, Fault::PowerCut, 0);
            let opened = crate::world::open(disk);
            if !disk.is_off() {
                assert!(opened.is_ok(), "{self:?}: {opened:?} at call {call} of the recovery");
                disk.disarm();
                return;
            }
            drop(opened);
            disk.restart(self.seed + call);
        }
    }
}

/// How many seeds are tried at each call, where all is tried.
fn seeds() -> Option<u64> {
    std::env::var("SUSTAIN_CRASH_SEEDS").ok().and_then(|text| text.parse().ok())
}

/// Runs the script with a fault at many of its calls: at every so manieth with one seed, or at each with all seeds.
fn sweep(fault: Fault, stride: u64, recover: bool) {
    sweep_with(fault, stride, (recover, false));
}

fn sweep_with(fault: Fault, stride: u64, (recover, two): (bool, bool)) {
    let (seeds_all, script) = (seeds(), script());
    let stride = if seeds_all.is_some() { 1 } else { stride };
    let mut last = 0;
    'calls: for nth in (1..).step_by(stride as usize) {
        for seed in 0..seeds_all.unwrap_or(1) {
            let seed = if seeds_all.is_some() { seed } else { nth / stride };
            if !(Run { fault, nth, seed, recover, two }).go(&script) {
                last = nth;
                break 'calls;
            }
        }
    }
    assert!(last > 200, "the script has {last} calls: it does not do what it should");
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_acknowledged() {
    sweep(Fault::PowerCut, 5, false);
}

#[test]
fn power_cuts_during_recovery_lose_nothing_acknowledged() {
    sweep(Fault::PowerCut, 41, true);
}

#[test]
fn a_power_cut_loses_nothing_acknowledged_to_either_of_two_processes() {
    sweep_with(Fault::PowerCut, 13, (false, true));
}

#[test]
fn a_call_that_fails_once_fails_one_operation_of_one_of_two_processes() {
    sweep_with(Fault::Fail(EIO), 19, (false, true));
}

#[test]
fn a_full_disk_at_any_call_loses_nothing_acknowledged() {
    sweep(Fault::Full, 17, false);
}

#[test]
fn a_call_that_fails_once_fails_one_operation_and_no_other() {
    sweep(Fault::Fail(EIO), 11, false);
}

#[test]
fn a_call_that_finds_no_room_once_fails_one_operation_and_no_other() {
    sweep(Fault::Fail(ENOSPC), 29, false);
}

#[test]
fn a_disk_that_fails_from_some_call_on_keeps_what_it_had() {
    sweep(Fault::Dead(EIO), 31, false);
}

#[test]
fn a_read_that_fails_once_fails_one_operation_and_no_other() {
    sweep(Fault::FailToRead(EIO), 37, false);
}

#[test]
fn a_read_that_comes_short_loses_nothing_acknowledged() {
    sweep(Fault::ShortRead, 41, false);
}

/// The folder above was synced by whoever made the store's folder only. If that failed, the next opening found the
/// folder, and a power cut took all that was stored since.
#[test]
fn a_new_stores_name_is_synced_by_the_opening_after_one_that_could_not() {
    let run = Run { fault: Fault::Fail(EIO), nth: 2, seed: 3, recover: false, two: false };
    assert!(run.go(&script()));
}

/// Its folders' names were not synced before other files were in it, and of these one was left after a power cut.
#[test]
fn a_new_store_is_one_after_a_power_cut_whatever_is_left_of_it() {
    for nth in 1..60 {
        for seed in 0..8 {
            let run = Run { fault: Fault::PowerCut, nth, seed, recover: false, two: false };
            assert!(run.go(&script()[..1]) || nth > 20, "the script has so many calls");
        }
    }
}

/// A manifest that came short once at an opening lost packs: what was retired then was taken for the last to list them.
#[test]
fn a_manifest_that_could_not_be_read_once_keeps_its_packs() {
    let script = script();
    let reopened = 1 + script.iter().position(|step| matches!(step, Step::Reopen)).unwrap();
    let reads = |steps: &[Step]| {
        let disk = Simulated::default();
        let mut world = World::new(disk.clone());
        steps.iter().for_each(|step| world.step(step).unwrap());
        disk.reads()
    };
    let retired = 1 + script.iter().position(|step| matches!(step, Step::Retire)).unwrap();
    for nth in reads(&script[..reopened - 1]) + 1..=reads(&script[..reopened]) {
        let run = Run { fault: Fault::ShortRead, nth, seed: nth, recover: false, two: false };
        assert!(run.go(&script[..retired]), "the script has so many reads");
    }
}

/// The database was opened again after a write that had failed, and held what nobody had been told: a rebase that had
/// "failed" was in it, so that the base of everything that was pushed next was removed at the next opening, and what
/// the next rebase dropped came back. And what a failed sync had lost, a later one was taken to have saved.
#[test]
fn what_follows_a_commit_that_failed_does_not_depend_on_whether_it_did() {
    let script = [
        Step::Push(0, 0, 1),
        Step::Push(0, 50, 2),
        Step::Mark(0, 0, 1),
        Step::Rebase(0, 0),
        Step::Push(0, 20, 3),
        Step::Rebase(0, 0),
    ];
    // The seed says whether the power is cut afterwards.
    let mut runs =
        (1..).map(|nth| Run { fault: Fault::Fail(EIO), nth, seed: nth / 2, recover: false, two: false });
    let calls = runs.by_ref().take_while(|run| run.go(&script)).count();
    assert!(calls > 50, "{calls}");
}
