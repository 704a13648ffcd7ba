//! A client beside a QEMU that is a thread: what comes late, in parts, too much, or not at all.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10}}}}"#;
const PATIENCE: Duration = Duration::from_secs(10);

/// A QEMU that answers each line it gets by the next text, with `ID` filled in, and then hangs up.
fn qemu(greeting: &str, answers: &[&str]) -> (UnixStream, JoinHandle<Vec<String>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let greeting = greeting.to_owned();
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let thread = std::thread::spawn(move || {
        let mut writer = theirs.try_clone().unwrap();
        writeln!(writer, "{greeting}").unwrap();
        let mut commands = Vec::new();
        let mut reader = BufReader::new(theirs);
        for answer in answers {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 {
                break;
            }
            let command: Value = serde_json::from_str(&line).unwrap();
            commands.push(command["execute"].as_str().unwrap().to_owned());
            let answer = answer.replace("ID", &command["id"].to_string());
            // In two parts: nothing may depend on how bytes arrive.
            let (first, second) = answer.split_at(answer.len() / 2);
            writer.write_all(first.as_bytes()).unwrap();
            writeln!(writer, "{second}").unwrap();
        }
        commands
    });
    (ours, thread)
}

const OK: &str = r#"{"return":{},"id":ID}"#;

#[test]
fn commands_events_and_late_answers_are_kept_apart() {
    let stop = r#"{"timestamp":{"seconds":5,"microseconds":0},"event":"STOP"}"#;
    let noise = format!(r#"{{"return":{{"late":1}},"id":99}}{0}{stop}{0}{OK}"#, "\n");
    let (stream, thread) = qemu(GREETING, &[OK, &noise, r#"{"error":{"desc":"no"},"id":ID}"#]);
    let mut client = Client::connect(stream, PATIENCE).unwrap();
    assert_eq!(client.version(), (10, 0, 2));
    assert_eq!(client.execute("stop", json!({}), PATIENCE).unwrap(), json!({}));
    let event = client.wait_for_event("STOP", PATIENCE, |event| event.name == "STOP").unwrap();
    assert_eq!(event.at, Duration::from_secs(5));
    let refused = client.execute("cont", json!({}), PATIENCE).unwrap_err();
    assert_eq!(refused.to_string(), "QEMU refuses cont: no");
    assert_eq!(thread.join().unwrap(), ["qmp_capabilities", "stop", "cont"]);
    assert!(matches!(client.execute("quit", json!({}), PATIENCE), Err(QmpError::Closed)));
    assert!(matches!(client.take_events(), Err(QmpError::Closed)));
}

#[test]
fn silence_ends_in_a_time_out_and_the_connection_stays_usable() {
    let late = format!("{OK}\n");
    let (stream, thread) = qemu(GREETING, &[OK, "{\"event\":\"RTC_CHANGE\"}", &late]);
    let mut client = Client::connect(stream, PATIENCE).unwrap();
    let error = client.execute("stop", json!({}), Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, QmpError::Timeout { what: "stop", .. }), "{error}");
    client.execute("cont", json!({}), PATIENCE).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_first_word_that_is_no_greeting_is_refused() {
    for (word, closes) in [("SSH-2.0-x", false), (r#"{"return":{}}"#, false), ("", true)] {
        let (stream, thread) = qemu(word, &[]);
        let error = Client::connect(stream, PATIENCE).unwrap_err();
        assert_eq!(matches!(error, QmpError::Closed), closes, "{word}: {error}");
        assert_eq!(matches!(error, QmpError::Protocol { .. }), !closes, "{word}: {error}");
        thread.join().unwrap();
    }
}

#[test]
fn events_that_nobody_takes_are_bounded_and_the_newest_stay() {
    let mut flood = String::new();
    for number in 0..3 * QMP_EVENTS_MAX {
        flood += &format!("{{\"event\":\"E{number}\"}}\n");
    }
    let (stream, thread) = qemu(GREETING, &[OK, &(flood + OK)]);
    let mut client = Client::connect(stream, PATIENCE).unwrap();
    client.execute("stop", json!({}), PATIENCE).unwrap();
    assert_eq!(client.events.len(), QMP_EVENTS_MAX);
    assert_eq!(client.events.back().unwrap().name, format!("E{}", 3 * QMP_EVENTS_MAX - 1));
    thread.join().unwrap();
}

#[test]
fn a_descriptor_arrives_with_its_command() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let mut writer = theirs.try_clone().unwrap();
        writeln!(writer, "{GREETING}").unwrap();
        writeln!(writer, r#"{{"return":{{}},"id":1}}"#).unwrap();
        let mut found: Option<OwnedFd> = None;
        let mut text = Vec::new();
        while !text.ends_with(b"\"id\":2}\n") && !String::from_utf8_lossy(&text).contains("getfd") {
            let mut bytes = [0_u8; 512];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
            let received = recvmsg(&theirs, &mut slices, &mut ancillary, RecvFlags::empty()).unwrap();
            text.extend_from_slice(&bytes[..received.bytes]);
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                    found = descriptors.next();
                }
            }
        }
        writeln!(writer, r#"{{"return":{{}},"id":2}}"#).unwrap();
        let mut file = File::from(found.expect("a descriptor"));
        file.write_all(b"device state").unwrap();
    });
    let mut client = Client::connect(ours, PATIENCE).unwrap();
    let mut file = crate::memory_file::create("test").unwrap();
    client.execute_with("getfd", json!({ "fdname": "device" }), file.as_fd(), PATIENCE).unwrap();
    thread.join().unwrap();
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "device state");
}
