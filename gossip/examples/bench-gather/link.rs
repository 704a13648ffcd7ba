//! A network namespace of its own for one node, behind a link that can be slowed.

use std::process::Command;

use crate::Outcome;
use crate::run::output;

/// The addresses of both ends, of those that are set aside for benchmarks (RFC 2544).
pub(crate) const HERE: &str = "198.18.77.1";
pub(crate) const THERE: &str = "198.18.77.2";
/// How such addresses begin.
const BLOCK: &str = "198.18.";

/// The namespace and its link. Dropping it removes both.
pub(crate) struct SlowLink {
    namespace: String,
}

impl SlowLink {
    pub(crate) fn make() -> Outcome<Self> {
        if ip(&["-o", "address"])?.contains(BLOCK) || ip(&["route"])?.contains(BLOCK) {
            return Err(format!("somebody uses {BLOCK}0.0").into());
        }
        let namespace = format!("bench{}", std::process::id());
        let link = Self { namespace: namespace.clone() };
        ip(&["netns", "add", &namespace])?;
        let (here, there) = (format!("{namespace}a"), format!("{namespace}b"));
        ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &namespace])?;
        ip(&["address", "add", &format!("{HERE}/30"), "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        let inside = |args: &[&str]| output(link.inside("ip").args(args));
        inside(&["address", "add", &format!("{THERE}/30"), "dev", &there])?;
        inside(&["link", "set", &there, "up"])?;
        inside(&["link", "set", "lo", "up"])?;
        Ok(link)
    }

    /// A program in the namespace.
    pub(crate) fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// From now on what comes from there comes at 1 Mbit/s.
    pub(crate) fn slow_down(&self) -> Outcome<()> {
        let device = format!("{}b", self.namespace);
        let shape = ["root", "tbf", "rate", "1mbit", "burst", "16kb", "latency", "300ms"];
        output(self.inside("tc").args(["qdisc", "add", "dev", &device]).args(shape)).map(drop)
    }
}

impl SlowLink {
    /// From now on it comes as fast as it can again.
    pub(crate) fn speed_up(&self) -> Outcome<()> {
        let device = format!("{}b", self.namespace);
        output(self.inside("tc").args(["qdisc", "del", "dev", &device, "root"])).map(drop)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        // With the namespace goes its end of the link, and with that the other one.
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(args: &[&str]) -> Outcome<String> {
    output(Command::new("ip").args(args))
}
