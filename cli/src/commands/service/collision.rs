//! Whether services' ports on one machine get into each other's way.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use sustain_proto::ServiceName;

/// A port that a node is to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listener<'a> {
    /// The node.
    pub(super) node: &'a str,
    /// The address at which its peers reach it: it stands for the machine.
    pub(super) machine: IpAddr,
    /// Whose port it is.
    pub(super) service: &'a ServiceName,
    /// The address.
    pub(super) listen: SocketAddr,
}

impl fmt::Display for Listener<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (service {}, {})", self.node, self.service, self.listen)
    }
}

/// The first two of which only one can be listened on.
pub(super) fn collision<'a>(listeners: &[Listener<'a>]) -> Option<(Listener<'a>, Listener<'a>)> {
    let pairs = listeners
        .iter()
        .enumerate()
        .flat_map(|(at, one)| listeners[at + 1..].iter().map(move |two| (*one, *two)));
    let mut pairs = pairs.filter(|(one, two)| collide(one, two));
    pairs.next()
}

fn collide(one: &Listener<'_>, two: &Listener<'_>) -> bool {
    let both_loopback = one.machine.is_loopback() && two.machine.is_loopback();
    let same_machine = one.machine == two.machine || both_loopback;
    let (first, second) = (one.listen.ip(), two.listen.ip());
    let overlap = first == second || first.is_unspecified() || second.is_unspecified();
    same_machine && overlap && one.listen.port() == two.listen.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether node `a` on the one machine and node `b` on the other can't listen on these two.
    fn found(machines: [&str; 2], listen: [&str; 2]) -> bool {
        let service: ServiceName = "web".parse().unwrap();
        let listener = |at: usize| Listener {
            node: ["a", "b"][at],
            machine: machines[at].parse().unwrap(),
            service: &service,
            listen: listen[at].parse().unwrap(),
        };
        collision(&[listener(0), listener(1)]).is_some()
    }

    #[test]
    fn ports_collide_on_one_machine_only() {
        let (here, there) = ("192.0.2.1", "192.0.2.2");
        assert!(found([here, here], ["192.0.2.1:80", "192.0.2.1:80"]));
        assert!(found([here, here], ["0.0.0.0:80", "192.0.2.1:80"]), "all addresses are that one too");
        assert!(!found([here, here], ["192.0.2.1:80", "192.0.2.1:81"]));
        assert!(!found([here, there], ["0.0.0.0:80", "0.0.0.0:80"]));
        assert!(!found([here, there], ["127.0.0.1:80", "127.0.0.1:80"]), "each machine has its own");
        assert!(found(["127.0.0.1", "127.0.0.2"], ["0.0.0.0:80", "0.0.0.0:80"]), "both are this machine's");
        assert!(!found(["127.0.0.1", "127.0.0.2"], ["127.0.0.1:80", "127.0.0.2:80"]));
    }
}
