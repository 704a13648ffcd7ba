//! Conversations on a guest's channel.

use serde_json::{Value, json};
use sustain_proto::{NodeId, Term};

use super::channel::{Channel, ChannelOutput, ChannelView};
use super::state::Role;
use crate::limits::{CHANNEL_ID_BYTES_MAX, CHANNEL_WAIT, CHANNEL_WAITING_MAX};

fn term() -> Term {
    Term { counter: 3, node: NodeId::from_bytes([7; 32]), nonce: 9 }
}

fn view() -> ChannelView {
    ChannelView {
        role: Role::Server,
        term: Some(term()),
        running_seq: Some(41),
        durable_seq: Some(39),
        level: 1,
        all_on_line_unix_ms: Some(1_000),
        taken_unix_ms: Some(2_000),
        taken_ago_ms: Some(300),
    }
}

/// What the guest is told, and the token of the snapshot that is to be begun.
fn split(outputs: Vec<ChannelOutput>) -> (Vec<Value>, Option<u64>) {
    let mut said = Vec::new();
    let mut token = None;
    for output in outputs {
        match output {
            ChannelOutput::Say(line) => {
                assert!(!line.contains('\n'));
                said.push(serde_json::from_str(&line).unwrap());
            }
            ChannelOutput::TakeSnapshot(found) => assert_eq!(token.replace(found), None),
        }
    }
    (said, token)
}

fn ask(channel: &mut Channel, line: &str) -> (Vec<Value>, Option<u64>) {
    split(channel.line(0, line.as_bytes(), &view()))
}

fn token(channel: &mut Channel, line: &str) -> u64 {
    let (said, token) = ask(channel, line);
    assert_eq!(said, [] as [Value; 0]);
    token.unwrap()
}

#[test]
fn what_is_known_is_answered_at_once() {
    let mut channel = Channel::default();
    let mut said = |line: &str| {
        let (mut said, token) = ask(&mut channel, line);
        assert_eq!((said.len(), token), (1, None));
        said.remove(0)
    };
    let term = term().to_string();
    let watermark = json!({
        "ask": "watermark", "term": term, "seq": 41, "durable_seq": 39, "level": 1, "lag": 2, "ago_ms": 300,
    });
    assert_eq!(said(r#"{"ask":"watermark"}"#), watermark);
    let status = said(r#"{"ask":"status","id":[1,"x"]}"#);
    assert_eq!(
        (&status["role"], &status["id"], &status["seq"]),
        (&json!("server"), &json!([1, "x"]), &json!(41))
    );
    assert_eq!(said(r#"{"ask":"all-on-line"}"#), json!({ "ask": "all-on-line", "unix_ms": 1_000 }));
    let last = json!({ "ask": "last-snapshot", "seq": 41, "unix_ms": 2_000, "ago_ms": 300 });
    assert_eq!(said(r#"{"ask":"last-snapshot"}"#), last);
}

#[test]
fn what_is_no_question_gets_an_error_and_its_id_back() {
    let mut channel = Channel::default();
    let long = format!(r#"{{"ask":"status","id":"{}"}}"#, "x".repeat(CHANNEL_ID_BYTES_MAX));
    for line in ["", "x", "[]", "7", r#"{"ask":"stat"#, &long] {
        let (said, token) = ask(&mut channel, line);
        assert!(said[0]["error"].is_string() && said[0].get("id").is_none() && token.is_none(), "{line}");
    }
    for line in [r#"{"id":5}"#, r#"{"ask":"reboot","id":5}"#, r#"{"ask":7,"id":5}"#] {
        let (said, token) = ask(&mut channel, line);
        assert!(said[0]["error"].is_string() && said[0]["id"] == 5 && token.is_none(), "{line}");
    }
    assert_eq!(split(vec![Channel::line_too_long()]).0[0]["error"], "that line is too long");
}

#[test]
fn a_snapshot_under_way_when_it_is_asked_for_is_not_the_answer() {
    let mut channel = Channel::default();
    let first = token(&mut channel, r#"{"ask":"snapshot","id":1}"#);
    let second = token(&mut channel, r#"{"ask":"snapshot","id":2}"#);
    let (said, _) = split(channel.taken(first, 42));
    assert_eq!(said, [json!({ "ask": "snapshot", "seq": 42, "id": 1 })]);
    let (said, _) = split(channel.taken(second, 43));
    assert_eq!(said, [json!({ "ask": "snapshot", "seq": 43, "id": 2 })]);
    // One that is begun for a later question covers the earlier ones.
    let _ = token(&mut channel, r#"{"ask":"snapshot","id":3}"#);
    let fourth = token(&mut channel, r#"{"ask":"snapshot","id":4}"#);
    assert_eq!(split(channel.taken(fourth, 44)).0.len(), 2);
    assert_eq!(channel.taken(fourth, 45), []);
}

#[test]
fn a_barrier_waits_until_its_snapshot_is_durable() {
    let mut channel = Channel::default();
    let first = token(&mut channel, r#"{"ask":"barrier","id":1}"#);
    assert_eq!(channel.durable(42), [], "durable already, but it was taken before the question");
    assert_eq!(channel.taken(first, 43), []);
    assert_eq!(channel.durable(42), []);
    let (said, _) = split(channel.durable(45));
    assert_eq!(said, [json!({ "ask": "barrier", "seq": 43, "durable_seq": 45, "id": 1 })]);
    // News of being durable may overtake that of being taken.
    let second = token(&mut channel, r#"{"ask":"barrier"}"#);
    assert_eq!(channel.durable(46), []);
    assert_eq!(
        split(channel.taken(second, 46)).0,
        [json!({ "ask": "barrier", "seq": 46, "durable_seq": 46 })]
    );
}

#[test]
fn whoever_waits_in_vain_is_told() {
    let mut channel = Channel::default();
    let first = token(&mut channel, r#"{"ask":"barrier","id":1}"#);
    let (said, _) = split(channel.not_taken(first, "the disk is full"));
    assert_eq!(
        (&said[0]["id"], &said[0]["error"]),
        (&json!(1), &json!("no snapshot was taken: the disk is full"))
    );
    let second = token(&mut channel, r#"{"ask":"barrier","id":2}"#);
    assert_eq!(channel.taken(second, 42), []);
    let wait_ms = u64::try_from(CHANNEL_WAIT.as_millis()).unwrap();
    assert_eq!(channel.tick(wait_ms - 1), []);
    let (said, _) = split(channel.tick(wait_ms));
    assert!(said[0]["error"].as_str().unwrap().contains("not durable") && said[0]["seq"] == 42, "{said:?}");
    assert_eq!(channel.durable(42), [], "answered once");
}

#[test]
fn a_guest_that_only_asks_fills_nobodys_memory() {
    let mut channel = Channel::default();
    for _ in 0..CHANNEL_WAITING_MAX {
        token(&mut channel, r#"{"ask":"snapshot"}"#);
    }
    let (said, token) = ask(&mut channel, r#"{"ask":"snapshot","id":1}"#);
    assert!(said[0]["error"].is_string() && said[0]["id"] == 1 && token.is_none());
    // What needs no waiting is answered all the same.
    assert_eq!(ask(&mut channel, r#"{"ask":"status"}"#).0[0]["role"], "server");
}

/// The guest asked for a barrier, was saved while it waited, and goes on under another node. It is told,
/// asks again, and gets the answer of the new life: that what the restored state holds is durable in the
/// new term too.
#[test]
fn a_barrier_that_a_restore_swallowed_is_asked_again() {
    let mut old = Channel::default();
    let lost = token(&mut old, r#"{"ask":"barrier","id":"a"}"#);
    let _ = old.taken(lost, 41);
    drop(old);
    let mut new = Channel::default();
    let (said, _) = split(vec![Channel::restored(term(), 41)]);
    assert_eq!(said, [json!({ "event": "restored", "term": term().to_string(), "seq": 41 })]);
    assert_eq!(new.durable(41), [], "nobody is answered twice");
    let again = token(&mut new, r#"{"ask":"barrier","id":"a"}"#);
    assert_eq!(new.taken(again, 42), []);
    assert_eq!(split(new.durable(42)).0[0]["id"], "a");
}
