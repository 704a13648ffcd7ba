//! Which host ports QEMU really listens on, where the system was to pick them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::spec::PortForward;

/// Fills in the ports that were left to the system, from QEMU's table of its user network.
///
/// None if the table lacks one of them.
pub(crate) fn resolve(wanted: &[PortForward], table: &str) -> Option<Vec<PortForward>> {
    let mut listening: Vec<PortForward> = table.lines().filter_map(parse_row).collect();
    // Ports that were asked for by number are not up for choice.
    let fixed: BTreeSet<SocketAddr> =
        wanted.iter().filter(|forward| forward.host.port() != 0).map(|forward| forward.host).collect();
    listening.retain(|row| !fixed.contains(&row.host));
    let mut resolved = Vec::with_capacity(wanted.len());
    for forward in wanted {
        if forward.host.port() != 0 {
            resolved.push(*forward);
            continue;
        }
        let fits =
            |row: &PortForward| row.guest_port == forward.guest_port && row.host.ip() == forward.host.ip();
        let position = listening.iter().position(fits)?;
        resolved.push(listening.swap_remove(position));
    }
    Some(resolved)
}

/// `  TCP[HOST_FORWARD]  12       127.0.0.1 37123       10.0.2.15  8080     0     0`
fn parse_row(row: &str) -> Option<PortForward> {
    let mut words = row.split_whitespace();
    if words.next()? != "TCP[HOST_FORWARD]" {
        return None;
    }
    let _descriptor = words.next()?;
    // QEMU writes * for all addresses.
    let address = match words.next()? {
        "*" => IpAddr::from([0, 0, 0, 0]),
        text => text.parse().ok()?,
    };
    let host = SocketAddr::new(address, words.next()?.parse().ok()?);
    let _guest_address = words.next()?;
    Some(PortForward { host, guest_port: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Hub -1 (net0):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[HOST_FORWARD]  14       127.0.0.1 40001       10.0.2.15  8080     0     0\r
  TCP[HOST_FORWARD]  13               * 40002       10.0.2.15    25     0     0\r
  TCP[HOST_FORWARD]  12       127.0.0.1  9000       10.0.2.15  8080     0     0\r
  TCP[ESTABLISHED]   20       127.0.0.1 40001       10.0.2.15  8080     0     0\r
";

    fn forward(host: &str, guest_port: u16) -> PortForward {
        PortForward { host: host.parse().unwrap(), guest_port }
    }

    #[test]
    fn picked_ports_are_found_and_given_ones_left() {
        let wanted =
            [forward("127.0.0.1:9000", 8080), forward("0.0.0.0:0", 25), forward("127.0.0.1:0", 8080)];
        let expected =
            [forward("127.0.0.1:9000", 8080), forward("0.0.0.0:40002", 25), forward("127.0.0.1:40001", 8080)];
        assert_eq!(resolve(&wanted, TABLE).unwrap(), expected);
    }

    #[test]
    fn a_port_that_is_not_in_the_table_is_not_invented() {
        assert_eq!(resolve(&[forward("127.0.0.1:0", 81)], TABLE), None);
        assert_eq!(resolve(&[forward("127.0.0.1:0", 25)], TABLE), None);
        assert_eq!(
            resolve(&[forward("127.0.0.1:0", 8080)], "TCP[HOST_FORWARD] 1 x y z\nTCP[HOST_FORWARD]"),
            None
        );
        let twice = [forward("127.0.0.1:0", 8080), forward("127.0.0.1:0", 8080)];
        let one_row = "TCP[HOST_FORWARD]  14 127.0.0.1 40001 10.0.2.15 8080 0 0";
        assert_eq!(resolve(&twice, one_row), None);
    }
}
