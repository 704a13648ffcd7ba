//! Logic takes the time and random numbers as arguments and returns what to do. It never looks at a
//! clock, touches the disk or the network, or starts a task, so that a thousand nodes run in one process
//! in virtual time, from a seed.

use crate::{Finding, Source};

/// What logic must not name, and the names below it that are only values.
const FORBIDDEN: [(&str, &[&str]); 20] = [
    ("std::time::", &["Duration"]),
    ("std::net::", &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"]),
    ("std::fs", &[]),
    ("std::io", &[]),
    ("std::env", &[]),
    ("std::os", &[]),
    ("std::process", &[]),
    ("std::thread", &[]),
    ("tokio", &[]),
    ("quinn", &[]),
    ("rustix", &[]),
    ("getrandom", &[]),
    ("rand::rng(", &[]),
    ("rand::random", &[]),
    ("thread_rng", &[]),
    ("from_os_rng", &[]),
    ("OsRng", &[]),
    ("println!", &[]),
    ("print!", &[]),
    ("dbg!", &[]),
];

/// Whether a file is logic: all of proto, whatever is in a folder called `logic`, and every file whose
/// first line begins with `//! Logic:`.
#[must_use]
pub fn is_logic(source: &Source) -> bool {
    let folders = source.path.rsplit_once('/').map_or("", |(folders, _)| folders);
    let in_folder = source.path.starts_with("proto/src/") || folders.split('/').any(|name| name == "logic");
    source.is_rust() && !source.is_test() && (in_folder || source.text.starts_with("//! Logic:"))
}

/// Everything in a logic file that is not a matter of logic.
#[must_use]
pub fn check_logic(source: &Source) -> Vec<Finding> {
    if !is_logic(source) {
        return Vec::new();
    }
    let lines = source.code_lines();
    let mut findings = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        for (name, values) in FORBIDDEN {
            for (at, _) in line.match_indices(name) {
                let is_part = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                let after = &line[at + name.len()..];
                let following = lines[index + 1..].iter().map(|(_, line)| *line);
                if !is_part && !only_values(after, following, values) {
                    findings.push(source.finding(*number, format!("`{name}` has no place in logic")));
                }
            }
        }
    }
    findings
}

/// Whether what follows a path is one of these values, or a list in braces of nothing else.
fn only_values<'a>(after: &'a str, following: impl Iterator<Item = &'a str>, values: &[&str]) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let Some(list) = after.strip_prefix('{') else {
        let name = after.split(|c| !is_name(c)).next().unwrap_or("");
        return values.contains(&name);
    };
    let list: String = std::iter::once(list).chain(following).collect();
    let list = list.split('}').next().unwrap_or("");
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).all(|name| values.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        check_logic(&Source::new("node/src/logic/a.rs", text)).len()
    }

    #[test]
    fn logic_is_known_by_folder_or_first_line() {
        let logic = |path: &str, text: &str| is_logic(&Source::new(path, text));
        assert!(logic("proto/src/a.rs", ""));
        assert!(logic("node/src/logic/a.rs", ""));
        assert!(logic("node/src/logic/deep/a.rs", ""));
        assert!(logic("gossip/src/a.rs", "//! Logic: who is whose neighbour.\n"));
        assert!(!logic("gossip/src/a.rs", "//! The logic of sockets.\n"));
        assert!(!logic("node/src/logic.rs", ""));
        assert!(!logic("node/src/logic/a_tests.rs", ""));
        assert!(!logic("proto/tests/a.rs", ""));
    }

    #[test]
    fn every_forbidden_name_is_found() {
        for (name, _) in FORBIDDEN {
            assert!(count(&format!("    let a = {name}x();\n")) >= 1, "{name}");
        }
        assert_eq!(count("use std::time::{Duration, Instant};\n"), 1);
        assert_eq!(count("use std::net::{\n    SocketAddr,\n    UdpSocket,\n};\n"), 1);
        assert_eq!(count("use std::net::UdpSocket;\n"), 1);
    }

    #[test]
    fn values_comments_and_tests_are_fine() {
        assert_eq!(count("use std::time::Duration;\n"), 0);
        assert_eq!(count("use std::net::{IpAddr, SocketAddr};\n"), 0);
        assert_eq!(count("use std::net::{\n    IpAddr,\n    SocketAddr,\n};\n"), 0);
        assert_eq!(count("//! tokio is far away.\nlet a = 1; // not tokio\n"), 0);
        assert_eq!(count("#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}\n"), 0);
        assert_eq!(check_logic(&Source::new("node/src/daemon.rs", "use tokio::net;\n")), []);
    }
}
