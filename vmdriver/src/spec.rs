//! What a VM is made of, and the rules that make it a possible one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sustain_proto::ServiceName;
use sustain_proto::human::Size;

use crate::limits;

/// The machine type: pinned, because a snapshot's device state fits only the type it was saved on. This
/// one exists in QEMU 7.2 and all later ones.
pub const MACHINE_DEFAULT: &str = "pc-q35-7.2";

/// The processor model: the plainest one, which every host can run or emulate.
pub const CPU_DEFAULT: &str = "qemu64";

/// Guest memory unless said otherwise.
pub const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;

/// Kernel arguments that suit the test guest: console on the serial port, stable names, and a quick boot:
/// leaving out the kernel's tests of its own ciphers alone saves a third of it under emulation.
pub const KERNEL_ARGS_DEFAULT: &str = "console=ttyS0 quiet panic=-1 net.ifnames=0 random.trust_cpu=on \
                                       nokaslr mitigations=off no_timer_check tsc=reliable cryptomgr.notests";

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// KVM where it really works, else TCG.
    #[default]
    Auto,
    /// The processor's own virtualisation.
    Kvm,
    /// Emulation in software: slower, works everywhere.
    Tcg,
}

impl Accel {
    /// Its name in QEMU's arguments.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A TCP port of the host whose connections reach a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// Where the host listens (IPv4). With port 0 the system picks a free one: see
    /// [`Vm::forwards`](crate::Vm::forwards).
    pub host: SocketAddr,
    /// The port inside the guest.
    pub guest_port: u16,
}

/// Everything needed to start a VM. Restoring takes the same spec as starting did, but for the forwards,
/// which are the host's own affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The service that the VM runs; it is part of QEMU's command line.
    pub service: ServiceName,
    /// Bytes of guest memory.
    #[serde(default = "memory_bytes_default")]
    pub memory_bytes: u64,
    /// Virtual processors.
    #[serde(default = "cpus_default")]
    pub cpus: u32,
    /// The guest's kernel. Without one the machine's firmware boots from the disk.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// Its first file system.
    #[serde(default)]
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line.
    #[serde(default = "kernel_args_default")]
    pub kernel_args: String,
    /// QEMU's machine type, with its version.
    #[serde(default = "machine_default")]
    pub machine: String,
    /// QEMU's processor model.
    #[serde(default = "cpu_default")]
    pub cpu: String,
    /// How instructions are run.
    #[serde(default)]
    pub accel: Accel,
    /// The QEMU program; `qemu-system-x86_64` from the path if none is given.
    #[serde(default)]
    pub qemu: Option<PathBuf>,
    /// The guest's disk.
    #[serde(default)]
    pub disk: Option<DiskSpec>,
    /// Ports of the host that lead into the guest.
    #[serde(default)]
    pub forwards: Vec<PortForward>,
}

/// A disk, as it is before the service's first snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The image that the service first starts from, raw or qcow2. It is never written to.
    pub image: PathBuf,
}

fn memory_bytes_default() -> u64 {
    MEMORY_BYTES_DEFAULT
}
fn cpus_default() -> u32 {
    1
}
fn kernel_args_default() -> String {
    KERNEL_ARGS_DEFAULT.to_owned()
}
fn machine_default() -> String {
    MACHINE_DEFAULT.to_owned()
}
fn cpu_default() -> String {
    CPU_DEFAULT.to_owned()
}

/// Why no VM can be made from a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Too little or too much memory, or not a whole number of MiB.
    #[error("memory of {} is not possible: it must be whole MiB, from {} to {}", Size(*found), Size(*min), Size(*max))]
    Memory {
        /// Bytes asked for.
        found: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// No processor, or too many.
    #[error("cpus is {found}: it must be from 1 to {max}")]
    Cpus {
        /// Processors asked for.
        found: u32,
        /// Most.
        max: u32,
    },
    /// A name that would change the meaning of QEMU's arguments.
    #[error("{field} {found:?} is not a name that QEMU could have: letters, digits and {also} only")]
    Model {
        /// Which field.
        field: &'static str,
        /// What it says.
        found: String,
        /// Further characters allowed.
        also: &'static str,
    },
    /// The kernel would cut or misread its command line.
    #[error("kernel_args has {bytes} bytes: it may have at most {max}, without line breaks and NUL")]
    KernelArgs {
        /// Bytes found.
        bytes: usize,
        /// Most.
        max: usize,
    },
    /// Neither a kernel nor a disk.
    #[error("there is neither a kernel nor a disk to start from")]
    NothingToBoot,
    /// Too many forwards.
    #[error("{found} forwards, where at most {max} are allowed")]
    Forwards {
        /// Found.
        found: usize,
        /// Most.
        max: usize,
    },
    /// A forward that QEMU's user network can't do.
    #[error("the forward from {host} to guest port {guest_port}: {reason}")]
    Forward {
        /// The host's side.
        host: SocketAddr,
        /// The guest's side.
        guest_port: u16,
        /// Why not.
        reason: &'static str,
    },
}

impl VmSpec {
    /// A spec with the defaults for everything else.
    #[must_use]
    pub fn new(service: ServiceName, kernel: impl Into<PathBuf>) -> Self {
        Self {
            service,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            cpus: 1,
            kernel: Some(kernel.into()),
            initramfs: None,
            kernel_args: kernel_args_default(),
            machine: machine_default(),
            cpu: cpu_default(),
            accel: Accel::Auto,
            qemu: None,
            disk: None,
            forwards: Vec::new(),
        }
    }

    /// Checks the rules that need no look at the host.
    ///
    /// # Errors
    /// Names the first field that breaks one.
    pub fn validate(&self) -> Result<(), SpecError> {
        let max = sustain_proto::limits::REGION_BYTES_MAX;
        let min = limits::MEMORY_BYTES_MIN;
        let found = self.memory_bytes;
        if found < min || found > max || found % limits::MEMORY_BYTES_STEP != 0 {
            return Err(SpecError::Memory { found, min, max });
        }
        if self.cpus == 0 || self.cpus > limits::CPUS_MAX {
            return Err(SpecError::Cpus { found: self.cpus, max: limits::CPUS_MAX });
        }
        // A comma would begin another property of the machine; processor flags are given by commas.
        check_model("machine", &self.machine, "._-")?;
        check_model("cpu", &self.cpu, "._-,+=")?;
        let arguments = &self.kernel_args;
        if arguments.len() > limits::KERNEL_ARGS_BYTES_MAX || arguments.contains(['\0', '\n', '\r']) {
            return Err(SpecError::KernelArgs { bytes: arguments.len(), max: limits::KERNEL_ARGS_BYTES_MAX });
        }
        if self.kernel.is_none() && self.disk.is_none() {
            return Err(SpecError::NothingToBoot);
        }
        check_forwards(&self.forwards)
    }
}

fn check_model(field: &'static str, text: &str, also: &'static str) -> Result<(), SpecError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= limits::MODEL_NAME_BYTES_MAX && text.chars().all(legal) {
        return Ok(());
    }
    let found = text.chars().take(limits::MODEL_NAME_BYTES_MAX).collect();
    Err(SpecError::Model { field, found, also })
}

fn check_forwards(forwards: &[PortForward]) -> Result<(), SpecError> {
    if forwards.len() > limits::FORWARDS_MAX {
        return Err(SpecError::Forwards { found: forwards.len(), max: limits::FORWARDS_MAX });
    }
    let mut hosts = BTreeSet::new();
    for forward in forwards {
        let reason = if !forward.host.is_ipv4() {
            "QEMU's user network listens on IPv4 only"
        } else if forward.guest_port == 0 {
            "a guest has no port 0"
        } else if forward.host.port() != 0 && !hosts.insert(forward.host) {
            "the host's side is given twice"
        } else {
            continue;
        };
        return Err(SpecError::Forward { host: forward.host, guest_port: forward.guest_port, reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmSpec {
        VmSpec::new(ServiceName::new("mail").unwrap(), "/guest/vmlinuz")
    }

    fn refused(change: impl FnOnce(&mut VmSpec)) -> SpecError {
        let mut spec = spec();
        change(&mut spec);
        spec.validate().unwrap_err()
    }

    #[test]
    fn the_defaults_are_possible() {
        spec().validate().unwrap();
        let mut spec = spec();
        spec.cpu = "qemu64,+sse4.2,hv-passthrough=off".into();
        spec.forwards = vec![PortForward { host: "127.0.0.1:0".parse().unwrap(), guest_port: 80 }; 2];
        spec.validate().unwrap();
    }

    #[test]
    fn nothing_in_a_spec_can_change_the_meaning_of_qemus_arguments() {
        for machine in ["", "q35,accel=kvm", "-q35", "q35 -monitor stdio", "q35\n"] {
            assert!(
                matches!(refused(|s| s.machine = machine.into()), SpecError::Model { .. }),
                "{machine:?}"
            );
        }
        for cpu in ["", "host -daemonize", ",x", "é"] {
            assert!(matches!(refused(|s| s.cpu = cpu.into()), SpecError::Model { .. }), "{cpu:?}");
        }
        assert!(matches!(refused(|s| s.kernel_args = "quiet\0x".into()), SpecError::KernelArgs { .. }));
        assert!(matches!(refused(|s| s.kernel_args = "x".repeat(4_096)), SpecError::KernelArgs { .. }));
    }

    #[test]
    fn something_must_be_there_to_start_from() {
        assert_eq!(refused(|s| s.kernel = None), SpecError::NothingToBoot);
        let mut spec = spec();
        spec.kernel = None;
        spec.disk = Some(DiskSpec { image: "/images/mail.qcow2".into() });
        spec.validate().unwrap();
    }

    #[test]
    fn sizes_and_ports_have_bounds() {
        for bytes in [0, 1 << 20, (256 << 20) + 1, u64::MAX] {
            assert!(matches!(refused(|s| s.memory_bytes = bytes), SpecError::Memory { .. }), "{bytes}");
        }
        let said = refused(|s| s.memory_bytes = 4 << 20).to_string();
        assert!(said.starts_with("memory of 4.0 MiB is not possible"), "people don't read bytes: {said}");
        for cpus in [0, u32::MAX] {
            assert!(matches!(refused(|s| s.cpus = cpus), SpecError::Cpus { .. }), "{cpus}");
        }
        let forward = |host: &str, guest_port| PortForward { host: host.parse().unwrap(), guest_port };
        for forwards in [
            vec![forward("[::1]:80", 80)],
            vec![forward("127.0.0.1:80", 0)],
            vec![forward("127.0.0.1:80", 80), forward("127.0.0.1:80", 81)],
        ] {
            let error = refused(|s| s.forwards = forwards);
            assert!(matches!(error, SpecError::Forward { .. }), "{error}");
        }
        let many = vec![forward("127.0.0.1:0", 80); limits::FORWARDS_MAX + 1];
        assert!(matches!(refused(|s| s.forwards = many), SpecError::Forwards { .. }));
    }
}
