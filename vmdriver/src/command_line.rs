//! QEMU's arguments, as a pure function of the spec.

use std::ffi::OsString;
use std::path::Path;

use serde_json::json;

use crate::features::QemuFeatures;
use crate::guest;
use crate::limits::{NBD_RECONNECT_SECONDS, TCG_BUFFER_MIB};
use crate::spec::{Accel, PortForward, VmSpec};

/// The guest memory's name inside QEMU; it also names the block in the device state.
const MEMORY_ID: &str = "ram0";

/// The firmware's name inside QEMU.
const FIRMWARE_ID: &str = "firmware0";

/// What QEMU may not do: obsolete system calls, other rights, other programs, other priorities.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The guest's network address. QEMU's user network gives 10.0.2.0/24 and answers as 10.0.2.2.
pub(crate) const GUEST_ADDRESS: &str = "10.0.2.15";

/// The network card's address: fixed, because the guest's driver remembers it across a restore.
const CARD_ADDRESS: &str = "52:54:00:12:34:56";

/// Whether the guest boots, or waits for a state to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Boot,
    Incoming,
}

/// The arguments, the program left out. QEMU's standard descriptors are: 0 the guest's memory file, 1 the
/// control socket, 2 the log, which the guest's serial port shares.
pub(crate) fn arguments(
    spec: &VmSpec,
    qemu: &QemuFeatures,
    accel: Accel,
    origin: Origin,
    disk: Option<&Path>,
) -> Vec<OsString> {
    let mut line = Arguments::default();
    // What a person sees in a list of processes.
    line.option("-name", format!("sustain:{}", spec.service));
    line.flag("-nodefaults").flag("-no-user-config");
    line.option("-display", "none");
    if qemu.sandbox {
        line.option("-sandbox", SANDBOX);
    }
    // How states are saved and loaded leaves out their description and the configuration: see device_state.
    line.option(
        "-machine",
        format!("{},memory-backend={MEMORY_ID},pflash0={FIRMWARE_ID},suppress-vmdesc=on", spec.machine),
    );
    line.option("-global", "migration.send-configuration=off");
    line.option("-blockdev", firmware(qemu));
    line.option("-accel", accelerator(accel));
    line.option("-cpu", &spec.cpu);
    line.option("-smp", spec.cpus.to_string());
    line.option("-m", format!("{}M", spec.memory_bytes >> 20));
    line.option(
        "-object",
        format!(
            "memory-backend-file,id={MEMORY_ID},size={}M,share=on,mem-path=/proc/self/fd/0",
            spec.memory_bytes >> 20
        ),
    );
    if let Some(kernel) = &spec.kernel {
        line.option("-kernel", kernel);
        if let Some(initramfs) = &spec.initramfs {
            line.option("-initrd", initramfs);
        }
        line.option("-append", &spec.kernel_args);
    }
    line.option("-netdev", network(&spec.forwards));
    line.option("-device", format!("virtio-net-pci,netdev=net0,romfile=,mac={CARD_ADDRESS}"));
    if let Some(socket) = disk {
        line.option("-blockdev", disk_backend(socket));
        line.option("-device", DISK_DEVICE);
    }
    for device in guest::DEVICES {
        line.option("-device", device);
    }
    line.option("-chardev", "file,id=console0,path=/proc/self/fd/2,append=on");
    line.option("-serial", "chardev:console0");
    line.option("-chardev", "socket,id=control0,fd=1");
    line.option("-mon", "chardev=control0,mode=control");
    // Standing, until the driver has seen that QEMU suits.
    line.flag("-S");
    if origin == Origin::Incoming {
        line.option("-incoming", "defer");
    }
    line.0
}

/// As JSON, in which a path may have any character.
fn firmware(qemu: &QemuFeatures) -> String {
    let filename = qemu.firmware.to_string_lossy();
    json!({ "driver": "file", "node-name": FIRMWARE_ID, "filename": filename, "read-only": true }).to_string()
}

fn accelerator(accel: Accel) -> String {
    match accel {
        Accel::Kvm => "kvm".to_owned(),
        Accel::Auto | Accel::Tcg => format!("tcg,thread=multi,tb-size={TCG_BUFFER_MIB}"),
    }
}

/// Restricted: the guest can be reached through the forwards, and reaches neither the host's own ports
/// nor anything behind it. A guest that needs the outside needs a bridge (P23).
fn network(forwards: &[PortForward]) -> String {
    let mut text = "user,id=net0,restrict=on".to_owned();
    for forward in forwards {
        let (address, port) = (forward.host.ip(), forward.host.port());
        text += &format!(",hostfwd=tcp:{address}:{port}-{GUEST_ADDRESS}:{}", forward.guest_port);
    }
    text
}

/// Errors stop the VM instead of reaching the guest: see [`crate::stall`]. After the network card, so that
/// the card has the same place in a machine with a disk and in one without.
const DISK_DEVICE: &str = "virtio-blk-pci,drive=disk0,rerror=stop,werror=stop";

/// The disk's server, for which QEMU waits a little if it is gone. As JSON, because a path may hold commas.
fn disk_backend(socket: &Path) -> String {
    let server = json!({ "type": "unix", "path": socket.to_string_lossy() });
    json!({
        "driver": "nbd",
        "node-name": "disk0",
        "server": server,
        "export": "disk0",
        "reconnect-delay": NBD_RECONNECT_SECONDS,
        "discard": "unmap",
    })
    .to_string()
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use sustain_proto::ServiceName;

    use super::*;

    fn spec() -> VmSpec {
        let mut spec = VmSpec::new(ServiceName::new("mail").unwrap(), "/guest/vm,linuz");
        spec.initramfs = Some("/guest/init ramfs".into());
        spec.kernel_args = "console=ttyS0 quiet".into();
        spec.forwards = vec![
            PortForward { host: "127.0.0.1:0".parse().unwrap(), guest_port: 8080 },
            PortForward { host: "0.0.0.0:2525".parse().unwrap(), guest_port: 25 },
        ];
        spec
    }

    fn qemu() -> QemuFeatures {
        QemuFeatures { firmware: "/share/bi\"os,256k.bin".into(), sandbox: true }
    }

    fn text(arguments: Vec<OsString>) -> Vec<String> {
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_boot_under_emulation() {
        let expected = [
            ["-name", "sustain:mail"].as_slice(),
            &["-nodefaults", "-no-user-config"],
            &["-display", "none"],
            &["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
            &["-machine", "pc-q35-7.2,memory-backend=ram0,pflash0=firmware0,suppress-vmdesc=on"],
            &["-global", "migration.send-configuration=off"],
            &[
                "-blockdev",
                r#"{"driver":"file","filename":"/share/bi\"os,256k.bin","node-name":"firmware0","read-only":true}"#,
            ],
            &["-accel", "tcg,thread=multi,tb-size=128"],
            &["-cpu", "qemu64"],
            &["-smp", "1"],
            &["-m", "256M"],
            &["-object", "memory-backend-file,id=ram0,size=256M,share=on,mem-path=/proc/self/fd/0"],
            &["-kernel", "/guest/vm,linuz"],
            &["-initrd", "/guest/init ramfs"],
            &["-append", "console=ttyS0 quiet"],
            &[
                "-netdev",
                "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:8080,hostfwd=tcp:0.0.0.0:2525-10.0.2.15:25",
            ],
            &["-device", "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:12:34:56"],
            &["-device", "virtio-serial-pci,id=serial0,max_ports=4,bus=pcie.0,addr=0x10"],
            &["-device", "virtio-rng-pci,id=rng0,bus=pcie.0,addr=0x11"],
            &["-device", "vmgenid,id=vmgenid0,guid=auto"],
            &["-chardev", "file,id=console0,path=/proc/self/fd/2,append=on"],
            &["-serial", "chardev:console0"],
            &["-chardev", "socket,id=control0,fd=1"],
            &["-mon", "chardev=control0,mode=control"],
            &["-S"],
        ]
        .concat();
        assert_eq!(text(arguments(&spec(), &qemu(), Accel::Tcg, Origin::Boot, None)), expected);
    }

    #[test]
    fn a_restore_differs_only_in_waiting_for_the_state() {
        let boot = text(arguments(&spec(), &qemu(), Accel::Kvm, Origin::Boot, None));
        let restore = text(arguments(&spec(), &qemu(), Accel::Kvm, Origin::Incoming, None));
        assert_eq!(restore[..boot.len()], boot);
        assert_eq!(restore[boot.len()..], ["-incoming", "defer"]);
        assert!(boot.windows(2).any(|pair| pair == ["-accel", "kvm"]));
    }

    #[test]
    fn a_disk_waits_for_its_server_and_stops_the_vm_at_errors() {
        let socket = Path::new("/run/a,b/nbd.sock");
        let line = text(arguments(&spec(), &qemu(), Accel::Tcg, Origin::Boot, Some(socket)));
        let at = line.iter().rposition(|argument| argument == "-blockdev").unwrap();
        let backend: serde_json::Value = serde_json::from_str(&line[at + 1]).unwrap();
        let expected = json!({
            "driver": "nbd", "node-name": "disk0", "export": "disk0", "reconnect-delay": 5, "discard": "unmap",
            "server": { "type": "unix", "path": "/run/a,b/nbd.sock" },
        });
        assert_eq!(backend, expected);
        assert_eq!(line[at + 3], "virtio-blk-pci,drive=disk0,rerror=stop,werror=stop");
    }
}
