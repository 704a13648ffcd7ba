//! Logic: what is said to a guest agent and what it answers, as bytes and values.
//!
//! The protocol is JSON, one object a line, without ids in older agents, over a port on which answers to
//! questions of an earlier life may still arrive. `guest-sync-delimited` finds the way back: its answer
//! begins with a byte that no JSON holds, and repeats a number of ours.

use serde_json::{Value, json};

/// No UTF-8 text has this byte: it makes the agent forget half a command, and marks the answer to a sync.
pub(super) const DELIMITER: u8 = 0xff;

/// Most characters of an error text that are kept.
const DESCRIPTION_CHARS_MAX: usize = 1_024;

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// The command was carried out.
    Return { id: Option<u64>, value: Value },
    /// It was refused.
    Refusal { id: Option<u64>, class: String, description: String },
    /// The end or the beginning of something: half a line from before, or no answer at all.
    Noise,
}

/// A command as the agent reads it.
pub(super) fn command(name: &str, arguments: &Value, id: u64) -> Vec<u8> {
    let mut line = json!({ "execute": name, "arguments": arguments, "id": id }).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The question by which both sides find each other.
pub(super) fn sync(number: u64) -> Vec<u8> {
    let mut line = vec![DELIMITER];
    line.extend(
        json!({ "execute": "guest-sync-delimited", "arguments": { "id": number } }).to_string().bytes(),
    );
    line.push(b'\n');
    line
}

/// Whether a line is the answer to the sync with this number. Whatever else it holds came before.
pub(super) fn is_synced(line: &[u8], number: u64) -> bool {
    let Some(start) = line.iter().rposition(|byte| *byte == DELIMITER) else { return false };
    matches!(parse(&line[start + 1..]), Answer::Return { value, .. } if value.as_u64() == Some(number))
}

/// Reads an answer.
pub(super) fn parse(line: &[u8]) -> Answer {
    let start = line.iter().rposition(|byte| *byte == DELIMITER).map_or(0, |position| position + 1);
    let Ok(Value::Object(mut object)) = serde_json::from_slice(&line[start..]) else { return Answer::Noise };
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(value) = object.remove("return") {
        return Answer::Return { id, value };
    }
    let Some(error) = object.get("error") else { return Answer::Noise };
    let text = |key: &str| {
        let text = error.get(key).and_then(Value::as_str).unwrap_or("no reason given");
        // The guest is not trusted: no control characters, and not more than an error message takes.
        text.chars().filter(|c| !c.is_control()).take(DESCRIPTION_CHARS_MAX).collect::<String>()
    };
    Answer::Refusal { id, class: text("class"), description: text("desc") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_what_was_left_on_the_line() {
        let number = 77;
        assert!(is_synced(b"\xff{\"return\": 77}", number));
        assert!(is_synced(b"{\"return\": {\"pid\"\xff{\"return\": 77}", number), "behind half a line");
        assert!(is_synced(b"\xff{\"return\": 76}\xff{\"return\": 77}", number));
        for stale in
            [b"{\"return\": 77}".as_slice(), b"\xff{\"return\": 76}", b"\xff{\"return\": {}}", b"\xff", b""]
        {
            assert!(!is_synced(stale, number), "{}", stale.escape_ascii());
        }
    }

    #[test]
    fn answers_are_read_and_hostile_ones_are_noise() {
        assert_eq!(parse(b"{\"return\": {}, \"id\": 3}"), Answer::Return { id: Some(3), value: json!({}) });
        let refusal = parse(b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\\u001b[31m\"}}");
        let expected =
            Answer::Refusal { id: None, class: "CommandNotFound".into(), description: "no[31m".into() };
        assert_eq!(refusal, expected);
        for noise in [b"".as_slice(), b"x", b"[]", b"{}", b"7", b"{\"return\"", b"\xff\xff", b"\xc3("] {
            assert_eq!(parse(noise), Answer::Noise, "{}", noise.escape_ascii());
        }
        let long = format!("{{\"error\": {{\"desc\": \"{}\"}}}}", "x".repeat(10_000));
        let Answer::Refusal { description, .. } = parse(long.as_bytes()) else { panic!("a refusal") };
        assert_eq!(description.len(), DESCRIPTION_CHARS_MAX);
    }
}
