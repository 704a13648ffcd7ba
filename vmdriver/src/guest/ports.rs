//! The serial ports of every guest: one for QEMU's guest agent, one for our channel.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::limits::QMP_COMMAND_TIMEOUT;
use crate::qmp::{Client, QmpError};

use super::channel::CHANNEL_PORT;

/// The port that qemu-guest-agent opens unless told otherwise.
const AGENT_PORT: &str = "org.qemu.guest_agent.0";

/// The bus that both are on. Fixed slots of the PCI bus, far from those that QEMU deals out by itself:
/// a saved state fits only where the same device is in the same slot.
const BUS: &str = "virtio-serial-pci,id=serial0,max_ports=4,bus=pcie.0,addr=0x10";

/// A source of randomness that differs on every host.
const RANDOM: &str = "virtio-rng-pci,id=rng0,bus=pcie.0,addr=0x11";

/// Tells the guest's kernel (Linux 5.18 and newer) that its memory has been restored, so that it
/// renews its random numbers before anything else runs: each QEMU has a number of its own, made up anew.
const GENERATION: &str = "vmgenid,id=vmgenid0,guid=auto";

/// The devices among QEMU's arguments.
pub(crate) const DEVICES: [&str; 3] = [BUS, RANDOM, GENERATION];

/// One port: its name in the guest, its place on the bus, and the names that QEMU knows it by.
struct Port {
    name: &'static str,
    number: u32,
    device: &'static str,
    chardev: &'static str,
}

/// Port 0 is kept for consoles.
const AGENT: Port = Port { name: AGENT_PORT, number: 1, device: "agent0", chardev: "agent-socket0" };
const CHANNEL: Port = Port { name: CHANNEL_PORT, number: 2, device: "channel0", chardev: "channel-socket0" };

/// Our ends of a VM's ports.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) agent: UnixStream,
    pub(crate) channel: UnixStream,
}

impl Ports {
    /// Plugs both ports into a QEMU whose guest stands, before any state is loaded into it.
    ///
    /// # Errors
    /// If there are no sockets to be had, or QEMU refuses.
    pub(crate) fn plug(qmp: &mut Client) -> Result<Self, QmpError> {
        Ok(Self { agent: plug(qmp, &AGENT)?, channel: plug(qmp, &CHANNEL)? })
    }
}

fn plug(qmp: &mut Client, port: &Port) -> Result<UnixStream, QmpError> {
    let (ours, theirs) = UnixStream::pair().map_err(|source| QmpError::Io { source })?;
    let name = json!({ "fdname": port.chardev });
    qmp.execute_with("getfd", name, theirs.as_fd(), QMP_COMMAND_TIMEOUT)?;
    let address = json!({ "type": "fd", "data": { "str": port.chardev } });
    let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
    let chardev = json!({ "id": port.chardev, "backend": backend });
    qmp.execute("chardev-add", chardev, QMP_COMMAND_TIMEOUT)?;
    let device = json!({
        "driver": "virtserialport", "bus": "serial0.0", "nr": port.number,
        "id": port.device, "chardev": port.chardev, "name": port.name,
    });
    qmp.execute("device_add", device, QMP_COMMAND_TIMEOUT)?;
    Ok(ours)
}

/// Which ports the guest has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenPorts {
    pub(crate) agent: bool,
    pub(crate) channel: bool,
}

/// Asks QEMU which ports the guest has open.
///
/// # Errors
/// If QEMU does not answer.
pub(crate) fn open_ports(qmp: &mut Client) -> Result<OpenPorts, QmpError> {
    let list = qmp.execute("query-chardev", json!({}), QMP_COMMAND_TIMEOUT)?;
    let is_open = |port: &Port| {
        let found = list.as_array().into_iter().flatten().find(|entry| entry["label"] == port.chardev);
        found.and_then(|entry| entry["frontend-open"].as_bool()).unwrap_or(false)
    };
    Ok(OpenPorts { agent: is_open(&AGENT), channel: is_open(&CHANNEL) })
}

/// Announces the guest's network card to whatever switches are around, as after a live migration.
///
/// # Errors
/// If QEMU refuses.
pub(crate) fn announce(qmp: &mut Client) -> Result<(), QmpError> {
    let rounds: Value = json!({ "initial": 50, "max": 550, "rounds": 5, "step": 100 });
    qmp.execute("announce-self", rounds, QMP_COMMAND_TIMEOUT).map(drop)
}
