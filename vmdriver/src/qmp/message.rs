//! What QEMU sends, as values.

use std::time::Duration;

use serde_json::{Map, Value};

use super::QmpError;

/// One line from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// The first one: QEMU introduces itself.
    Greeting {
        /// Its version: major, minor, micro.
        version: (u64, u64, u64),
    },
    /// A command was carried out.
    Return {
        /// The id that the command was sent with.
        id: Option<u64>,
        /// Its result.
        value: Value,
    },
    /// A command was refused.
    Refusal {
        /// The id that the command was sent with.
        id: Option<u64>,
        /// Why.
        description: String,
    },
    /// Something happened.
    Event(Event),
}

/// Something that happened inside QEMU.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Which, in capitals.
    pub(crate) name: String,
    /// When, by the host's wall clock, since 1970.
    pub(crate) at: Duration,
    /// More about it.
    pub(crate) data: Map<String, Value>,
}

impl Event {
    /// A text in the event's data.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }
}

/// Most characters of an error text that are kept.
const DESCRIPTION_CHARS_MAX: usize = 1_024;

/// Reads a line.
///
/// # Errors
/// If it is not a QMP message.
pub(crate) fn parse(line: &[u8]) -> Result<Message, QmpError> {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(line) else {
        return Err(QmpError::Protocol { what: "a line that is no JSON object" });
    };
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(value) = object.remove("return") {
        return Ok(Message::Return { id, value });
    }
    if let Some(error) = object.get("error") {
        let text = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
        let description = text.chars().take(DESCRIPTION_CHARS_MAX).collect();
        return Ok(Message::Refusal { id, description });
    }
    if let Some(Value::String(name)) = object.get("event") {
        let name = name.clone();
        let at = object.get("timestamp").and_then(time_stamp).unwrap_or_default();
        let data = match object.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        return Ok(Message::Event(Event { name, at, data }));
    }
    if let Some(greeting) = object.get("QMP") {
        let part = |name| greeting.pointer(name).and_then(Value::as_u64).unwrap_or(0);
        let version = (part("/version/qemu/major"), part("/version/qemu/minor"), part("/version/qemu/micro"));
        return Ok(Message::Greeting { version });
    }
    Err(QmpError::Protocol { what: "a message of no known kind" })
}

/// QEMU sends -1 where it has no clock; that and anything absurd is no time stamp.
fn time_stamp(value: &Value) -> Option<Duration> {
    let seconds = value.get("seconds")?.as_u64()?;
    let microseconds = u32::try_from(value.get("microseconds")?.as_u64()?).ok()?;
    (microseconds < 1_000_000).then(|| Duration::new(seconds, microseconds * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        match parse(line.as_bytes()).unwrap() {
            Message::Event(event) => event,
            other => panic!("{other:?} is no event"),
        }
    }

    #[test]
    fn the_four_kinds_are_told_apart() {
        let version = r#"{"qemu":{"micro":22,"minor":2,"major":7},"package":"x"}"#;
        let greeting = format!(r#"{{"QMP":{{"version":{version},"capabilities":["oob"]}}}}"#);
        assert_eq!(parse(greeting.as_bytes()).unwrap(), Message::Greeting { version: (7, 2, 22) });
        let ok = parse(br#"{"return":{"status":"paused"},"id":7}"#).unwrap();
        assert_eq!(ok, Message::Return { id: Some(7), value: serde_json::json!({"status": "paused"}) });
        let no = parse(br#"{"id":8,"error":{"class":"GenericError","desc":"no"}}"#).unwrap();
        assert_eq!(no, Message::Refusal { id: Some(8), description: "no".into() });
        let stop = event(r#"{"timestamp":{"seconds":12,"microseconds":5},"event":"STOP"}"#);
        assert_eq!((stop.name.as_str(), stop.at), ("STOP", Duration::new(12, 5_000)));
        let migration = event(r#"{"event":"MIGRATION","data":{"status":"completed"}}"#);
        assert_eq!(migration.text("status"), Some("completed"));
        assert_eq!(migration.text("other"), None);
    }

    #[test]
    fn hostile_lines_are_refused_and_never_panic() {
        let deep = "[".repeat(100_000);
        let lines: [&[u8]; 10] = [
            b"",
            b"null",
            b"[]",
            b"{}",
            b"{\"event\":5}",
            b"{\"return\":1",
            b"\xff\xfe{}",
            b"{\"id\":1}",
            b"{\"event\":\"STOP\"} {\"event\":\"STOP\"}",
            deep.as_bytes(),
        ];
        for line in lines {
            let shown = String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned();
            assert!(matches!(parse(line), Err(QmpError::Protocol { .. })), "{shown}");
        }
    }

    #[test]
    fn absurd_fields_are_passed_over() {
        for stamp in [
            r#"{"seconds":-1,"microseconds":-1}"#,
            r#"{"seconds":1,"microseconds":1000000}"#,
            r#"{"seconds":99999999999999999999,"microseconds":1}"#,
            r#"[]"#,
        ] {
            let line = format!(r#"{{"event":"STOP","timestamp":{stamp},"data":7}}"#);
            assert_eq!(event(&line).at, Duration::ZERO, "{stamp}");
        }
        let refusal = parse(br#"{"error":[],"id":"x"}"#).unwrap();
        assert_eq!(refusal, Message::Refusal { id: None, description: "no reason given".into() });
        let long = format!(r#"{{"error":{{"desc":"{}"}}}}"#, "é".repeat(5_000));
        match parse(long.as_bytes()).unwrap() {
            Message::Refusal { description, .. } => {
                assert_eq!(description.chars().count(), DESCRIPTION_CHARS_MAX);
            }
            other => panic!("{other:?}"),
        }
    }
}
