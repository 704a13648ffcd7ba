//! Programs that end, fail, hang and leave others behind.

use super::*;

fn shell(script: &str) -> Call {
    let mut call = bare(Path::new("/bin/sh"), Path::new("/"));
    call.arguments = ["-c", script].map(OsString::from).to_vec();
    call
}

fn is_there(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    status.is_ok_and(|text| !text.contains("State:\tZ"))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_answer_has_its_words_and_their_times_and_a_bound() {
    let finished =
        shell("echo paused; sleep 0.05; echo resumed; echo more").run(Duration::from_secs(20)).unwrap();
    assert_eq!(finished.stdout, b"paused\nresumed\nmore\n");
    assert!(finished.resumed.unwrap() - finished.paused.unwrap() >= Duration::from_millis(40));
    let much = shell("head -c 3000000 /dev/zero").run(Duration::from_secs(20)).unwrap();
    assert_eq!(much.stdout.len(), limits::COMMAND_OUTPUT_BYTES_MAX);
}

#[test]
fn only_what_is_given_is_in_the_environment_and_standard_input_is_empty() {
    let call = shell("env; cat").with("SUSTAIN_SERVICE", "with space");
    let said = String::from_utf8(call.run(Duration::from_secs(20)).unwrap().stdout).unwrap();
    assert!(said.contains("SUSTAIN_SERVICE=with space\n"), "{said}");
    // Cargo sets plenty of these for a test.
    assert!(!said.contains("CARGO"), "{said}");
}

#[test]
fn a_failure_and_a_program_that_takes_too_long_are_named() {
    let error = shell("echo out of luck >&2; exit 3").run(Duration::from_secs(20)).unwrap_err();
    assert_eq!(error.to_string(), "/bin/sh failed: exit code 3; it said: out of luck");
    let error = shell("sleep 600").run(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
    let missing = bare(Path::new("/nowhere/start"), Path::new("/")).run(Duration::from_secs(20));
    assert!(matches!(missing, Err(ProgramError::Failed { .. })));
}

/// A child that its program leaves behind holds the output open, and would outlive it.
#[test]
fn children_end_with_their_program_however_it_ends() {
    let finished = shell("sleep 600 & echo $!").run(Duration::from_secs(20)).unwrap();
    let child = String::from_utf8(finished.stdout).unwrap();
    wait_until("the child of a program that ended is gone", || !is_there(&child));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("child");
    let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let job = shell(&script).start().unwrap();
    wait_until("the child's start", || file.exists());
    let child = std::fs::read_to_string(&file).unwrap();
    assert!(is_there(&child));
    drop(job);
    wait_until("the child of a dropped job is gone", || !is_there(&child));
}

#[test]
fn a_group_that_stands_still_goes_on_when_told_and_dies_when_dropped() {
    let job = shell("sleep 600").start().unwrap();
    let stands = |job: &Job| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", job.pid())).unwrap_or_default();
        status.contains("State:\tT")
    };
    job.signal(Signal::STOP).unwrap();
    wait_until("the stop", || stands(&job));
    job.go_on().unwrap();
    wait_until("the going on", || !stands(&job));
    job.signal(Signal::STOP).unwrap();
    let pid = job.pid().to_string();
    drop(job);
    assert!(!is_there(&pid));
}

/// Each snapshot by such a program cost a thread, a descriptor and a second, for as long as the service lived.
#[test]
fn a_child_that_left_the_group_and_keeps_the_output_holds_up_one_call_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("child");
    // It has left the group before the program ends, which ends the group.
    let script =
        "setsid sh -c 'echo $$ > FILE; exec sleep 600' & until [ -s FILE ]; do sleep 0.01; done; echo paused";
    let call = shell(&script.replace("FILE", &file.display().to_string()));
    let finished = call.run(Duration::from_secs(20)).unwrap();
    assert_eq!(finished.stdout, b"paused\n");
    assert!(call.kept.load(Ordering::Relaxed), "it is found out, and not waited for again");
    let child = std::fs::read_to_string(&file).unwrap();
    assert!(is_there(&child));
    let again = shell("echo paused; echo resumed");
    let finished = Call { kept: Arc::clone(&call.kept), ..again }.run(Duration::from_secs(20)).unwrap();
    assert!(finished.resumed.is_some(), "all that was written is taken all the same");
    assert!(std::process::Command::new("kill").args(["-KILL", child.trim()]).status().unwrap().success());
}

#[test]
fn a_wait_ends_when_it_has_become_pointless() {
    let began = Instant::now();
    let mut looks = 0;
    let ended = shell("sleep 600").run_unless(Duration::from_secs(600), &mut || {
        looks += 1;
        (looks == 2).then_some(ProgramError::Cancelled)
    });
    assert!(matches!(ended, Err(ProgramError::Cancelled)), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(60));
}
