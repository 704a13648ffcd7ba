//! What can be said to a guest and what it says, before a snapshot, during one, and after a restore.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{BOOT_TIMEOUT, Regions, ask, spec, wait_for_boot};
use sustain_vmdriver::{
    ChannelEnd, ChannelInput, ChannelLink, GuestAgent, GuestCommand, GuestError, GuestExit, QemuDriver,
    SnapshotScope, Vm, VmDriver, WakeReport,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A program in the guest asks for a barrier through the channel, and a snapshot is taken while it waits
/// for the answer. The answer comes in both of its lives: in the one that went on, and in the restored one,
/// where it has to ask again. The agent, whose command the question was, works on in both.
#[test]
fn a_guest_that_waits_for_an_answer_gets_one_in_both_lives() {
    let folder = tempfile::tempdir().unwrap();
    let driver = QemuDriver::new();
    let spec = spec("inside");
    let mut vm = driver.start(&spec, &folder.path().join("first")).unwrap();
    let mut channel = Channel::open(vm.take_channel().unwrap());
    assert!(vm.take_channel().is_none() && vm.take_wake_report().is_none());
    let booted = wait_for_boot(&mut *vm);
    let agent = wait_for_agent(&mut *vm);
    let started = Instant::now();
    let (exit, text) = run(&*agent, "cat /proc/sys/kernel/random/boot_id").unwrap();
    println!("a program in the guest took {} ms", started.elapsed().as_millis());
    assert_eq!((exit.code, text.trim()), (Some(0), booted.boot_id.as_str()));
    let (_, text) = run(&*agent, "cat /sys/firmware/acpi/interrupts/gpe05").unwrap();
    assert!(text.trim().starts_with("0 "), "{text}");
    // A clock that is plainly wrong, so that setting it shows.
    run(&*agent, "date -s '2001-02-03 04:05:06'").unwrap();

    let asking = {
        let agent = Arc::clone(&agent);
        thread::spawn(move || run(&*agent, "sustain-ask barrier"))
    };
    let question = channel.question();
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    channel.answer(&question, "first life");
    let (exit, text) = asking.join().unwrap().unwrap();
    assert_eq!(exit.code, Some(0));
    assert!(text.contains("first life"), "{text}");

    // A program under way when its VM ends is lost, and does not hang.
    let waiting = {
        let agent = Arc::clone(&agent);
        thread::spawn(move || run(&*agent, "sleep 600"))
    };
    vm.stop().unwrap();
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, GuestError::Lost { .. }), "{error:?}");
    assert_eq!(channel.inputs.recv_timeout(PATIENCE).unwrap(), ChannelInput::Closed);

    let prepared = driver.prepare(&spec, &folder.path().join("second")).unwrap();
    regions.restore(prepared.target()).unwrap();
    let mut vm = prepared.resume().unwrap();
    let end = vm.take_channel().unwrap();
    assert!(end.waiting, "the port was open when the guest was saved");
    channel = Channel::open(end);
    assert!(channel.link.send(r#"{"event":"restored","seq":1}"#));
    assert_eq!(channel.question(), question, "it asks the same again");
    channel.answer(&question, "second life");
    check_wake(&wait_for_wake(&mut *vm));

    let agent = wait_for_agent(&mut *vm);
    let (_, text) = run(&*agent, "date +%s; hostname; cat /sys/firmware/acpi/interrupts/gpe05").unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(lines[0].parse().unwrap()) <= 2, "{text} is not {now}");
    assert_eq!(lines[1], "guest", "its name is kept");
    // The event of the device that tells a kernel to renew its random numbers. The test guest's has no driver for it.
    let events: u64 = lines[2].split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(events, 1, "the guest is told that it was restored: {text}");
    assert_eq!(ask(&mut *vm, "/peek").boot_id, booted.boot_id);
}

fn check_wake(report: &WakeReport) {
    println!("{report:?}");
    for step in [&report.network, &report.entropy, &report.clock, &report.host_name] {
        assert!(step.is_done(), "{report:?}");
    }
    let year_ms = 365.0 * 86_400_000.0;
    assert!(report.clock_before_ms.unwrap() < -20.0 * year_ms, "{report:?}");
    assert!(report.clock_after_ms.unwrap().abs() < 1_000.0, "{report:?}");
    assert_eq!(report.host_name_found.as_deref(), Some("guest"));
}

pub(crate) fn wait_for_agent(vm: &mut dyn Vm) -> Arc<dyn GuestAgent> {
    let started = Instant::now();
    loop {
        match vm.guest_agent() {
            Ok(agent) => return agent,
            Err(error) => assert!(matches!(error, GuestError::Absent), "{error:?}"),
        }
        assert!(
            started.elapsed() < BOOT_TIMEOUT,
            "the guest's agent does not come up; the VM is {:?}",
            vm.state()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn wait_for_wake(vm: &mut dyn Vm) -> WakeReport {
    let started = Instant::now();
    loop {
        if let Some(report) = vm.take_wake_report() {
            return report;
        }
        assert!(started.elapsed() < PATIENCE, "no report of what the restored guest was told");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn run(agent: &dyn GuestAgent, script: &str) -> Result<(GuestExit, String), GuestError> {
    let command = GuestCommand {
        program: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: Vec::new(),
        deadline: PATIENCE,
    };
    let mut output = Vec::new();
    let exit = agent.run(&command, &mut io::empty(), &mut output)?;
    println!("{script}: {exit:?}");
    Ok((exit, String::from_utf8(output).unwrap()))
}

/// The host's end of the channel, without the node's logic.
struct Channel {
    link: ChannelLink,
    inputs: Receiver<ChannelInput>,
}

impl Channel {
    fn open(end: ChannelEnd) -> Self {
        let (sender, inputs) = sync_channel(16);
        Self { link: ChannelLink::start(end, move |input| drop(sender.send(input))).unwrap(), inputs }
    }

    /// Waits for a barrier's question and returns its id.
    fn question(&self) -> String {
        let ChannelInput::Line(line) = self.inputs.recv_timeout(PATIENCE).unwrap() else { panic!("no line") };
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["ask"], "barrier");
        line["id"].as_str().unwrap().to_owned()
    }

    fn answer(&self, id: &str, text: &str) {
        assert!(self.link.send(&format!(r#"{{"ask":"barrier","id":"{id}","text":"{text}"}}"#)));
    }
}
