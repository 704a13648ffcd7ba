//! What can go wrong, one type per operation. Messages say what was being done; causes are in `source`.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use sustain_proto::human::Size;
use sustain_proto::{RegionName, ServiceName};

use crate::command::ProgramError;
use crate::disk::DiskError;
use crate::driver::ExitReport;
use crate::qmp::QmpError;
use crate::spec::SpecError;

/// What kind of failure it is, for exit codes and hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The spec can't be fulfilled anywhere: it has to be changed.
    Invalid,
    /// A program or file is missing on this host: `make setup` or the config has to be looked at.
    Missing,
    /// The host has too little memory left.
    NoMemory,
    /// The snapshot's regions don't fit the VM.
    Corrupt,
    /// The VM has ended.
    Gone,
    /// Not now: something earlier is not done yet.
    Busy,
    /// The VM can't do this.
    Unsupported,
    /// Anything else.
    Failed,
}

/// Why a VM could not be started here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The spec itself.
    #[error("the VM of service {service} can't be built as described")]
    Spec {
        /// Whose.
        service: ServiceName,
        /// Which rule is broken.
        source: SpecError,
    },
    /// A file that the VM boots from.
    #[error("can't read the guest's {what} {}", path.display())]
    GuestFile {
        /// Kernel or initramfs.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No usable QEMU.
    #[error("can't run {}, the program that runs VMs", path.display())]
    Qemu {
        /// Which program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a QEMU, or one that is too old.
    #[error("{} says {found:?}: QEMU {oldest} or newer is needed", path.display())]
    QemuVersion {
        /// Which program.
        path: PathBuf,
        /// What it answered to `--version`.
        found: String,
        /// The oldest that works.
        oldest: &'static str,
    },
    /// KVM was demanded and doesn't work.
    #[error("KVM is demanded, but runs nothing on this host; accel = \"auto\" takes emulation instead")]
    NoKvm,
    /// The command driver's programs.
    #[error("service {service} can't be run by its programs")]
    Program {
        /// Whose.
        service: ServiceName,
        /// Why.
        source: ProgramError,
    },
    /// Too little memory left. Starting anyway would end in the system killing processes.
    #[error(
        "service {service} needs {} of memory, QEMU's own included; the host, or the control group that this runs in, \
         has {} left",
        Size(*needed_bytes),
        Size(*available_bytes)
    )]
    Memory {
        /// Whose VM.
        service: ServiceName,
        /// Guest memory and QEMU's own.
        needed_bytes: u64,
        /// What the host has, or a control group leaves of it.
        available_bytes: u64,
    },
    /// The host's memory can't be looked up.
    #[error("can't look up the host's free memory in /proc/meminfo")]
    HostMemory {
        /// Why.
        source: io::Error,
    },
}

/// Why a VM did not start, or did not go on from its snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// It was not even tried.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The folder for the VM's log.
    #[error("can't use {} for the VM's console log", path.display())]
    RunDir {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shared file that is the guest's memory.
    #[error("can't make a memory file of {bytes} bytes for {what}")]
    MemoryFile {
        /// Its use.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// No process, thread or socket to be had.
    #[error("can't start QEMU's process")]
    Spawn {
        /// Why.
        source: io::Error,
    },
    /// It started, and ended too soon.
    #[error("QEMU ended while {doing}: {report}")]
    Exited {
        /// What it should have done.
        doing: &'static str,
        /// How it ended.
        report: Box<ExitReport>,
    },
    /// It doesn't do as told.
    #[error("QEMU failed at {doing}")]
    Qmp {
        /// What it should have done.
        doing: &'static str,
        /// What it answered.
        source: QmpError,
    },
    /// The guest's disk.
    #[error("can't make the guest's disk")]
    Disk {
        /// Why.
        source: DiskError,
    },
    /// A region was not filled.
    #[error("the snapshot has no region {name}, without which no VM goes on")]
    RegionMissing {
        /// Which.
        name: &'static str,
    },
    /// A region has another size than the VM needs.
    #[error("the snapshot's region {name} has {found_bytes} bytes, the VM as described has {expected_bytes}")]
    RegionSize {
        /// Which.
        name: &'static str,
        /// By the spec.
        expected_bytes: u64,
        /// By the snapshot.
        found_bytes: u64,
    },
    /// The snapshot was taken on another machine than this spec and host make.
    #[error("the snapshot is of a VM with {what} {saved}, it can't go on with {here}")]
    Incompatible {
        /// What differs.
        what: &'static str,
        /// By the snapshot.
        saved: String,
        /// Here.
        here: String,
    },
    /// The region of the devices' state is something else.
    #[error("can't read the snapshot's device state: {reason}")]
    DeviceHeader {
        /// What is wrong with it.
        reason: String,
    },
    /// A program of the command driver.
    #[error("the service can't be started by its programs")]
    Program {
        /// Why.
        source: ProgramError,
    },
    /// QEMU refuses the devices' state.
    #[error("QEMU can't load the snapshot's device state: {reason}")]
    Load {
        /// What QEMU says, and the last of its messages.
        reason: String,
    },
}

/// Why a snapshot was not taken. Unless said otherwise the VM runs on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The VM has ended.
    #[error("QEMU ended while {doing}: {report}")]
    Exited {
        /// What it should have done.
        doing: &'static str,
        /// How it ended.
        report: Box<ExitReport>,
    },
    /// It doesn't do as told.
    #[error("QEMU failed at {doing}")]
    Qmp {
        /// What it should have done.
        doing: &'static str,
        /// What it answered.
        source: QmpError,
    },
    /// The devices' state can't be saved.
    #[error("QEMU can't save the device state: {reason}")]
    Save {
        /// What QEMU says.
        reason: String,
    },
    /// More device state than is believable.
    #[error("the device state has {bytes} bytes, where at most {bytes_max} are expected")]
    DeviceSize {
        /// What was saved.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// It can't be found out what the guest wrote.
    #[error("can't find out which memory the guest wrote to")]
    Track {
        /// Why.
        source: io::Error,
    },
    /// A program of the command driver.
    #[error("the service's programs took no snapshot")]
    Program {
        /// Why.
        source: ProgramError,
    },
    /// A memory file can't be made or read.
    #[error("can't {doing}")]
    MemoryFile {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The store is behind: the disk's frozen layers of earlier snapshots are not folded yet.
    #[error("the disk holds as many unfinished snapshots as it may: this one is left out")]
    Busy,
    /// The VM stands because its disk can't be read or written now.
    #[error("the VM stands, waiting for its disk: no snapshot is taken of it")]
    Stalled,
    /// The guest reads blocks of its disk that can't be had now: it would stand until they are.
    #[error("the guest waits for blocks of its disk that are out of reach: no snapshot is taken meanwhile")]
    Unreachable,
    /// The guest's disk.
    #[error("can't take the guest's disk")]
    Disk {
        /// Why.
        source: DiskError,
    },
    /// The sink did not take a region.
    #[error("region {region} of the snapshot was not taken")]
    Sink {
        /// Which.
        region: RegionName,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The VM does not go on: it stands still.
    #[error("the VM stands still: QEMU does not resume it after a snapshot")]
    Resume {
        /// What it answered.
        source: QmpError,
    },
}

/// Why a VM was not ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// The system refuses to kill it, or it does not die.
    #[error("can't end QEMU's process {pid}")]
    Kill {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

impl CheckError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec { .. } => ErrorKind::Invalid,
            Self::GuestFile { .. } | Self::Qemu { .. } | Self::QemuVersion { .. } | Self::NoKvm => {
                ErrorKind::Missing
            }
            Self::Program { source, .. } => source.kind(),
            Self::Memory { .. } => ErrorKind::NoMemory,
            Self::HostMemory { .. } => ErrorKind::Failed,
        }
    }
}

impl StartError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Check(error) => error.kind(),
            Self::RegionMissing { .. }
            | Self::RegionSize { .. }
            | Self::DeviceHeader { .. }
            | Self::Load { .. } => ErrorKind::Corrupt,
            Self::Incompatible { .. } => ErrorKind::Unsupported,
            Self::Program { source } => source.kind(),
            Self::MemoryFile { .. } => ErrorKind::NoMemory,
            Self::Exited { .. } => ErrorKind::Gone,
            Self::Disk { source } => source.kind(),
            Self::RunDir { .. } | Self::Spawn { .. } | Self::Qmp { .. } => ErrorKind::Failed,
        }
    }
}

impl SnapshotError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Program { source } => source.kind(),
            Self::Exited { .. } => ErrorKind::Gone,
            Self::MemoryFile { .. } => ErrorKind::NoMemory,
            Self::Disk { source } => source.kind(),
            Self::Busy | Self::Stalled | Self::Unreachable => ErrorKind::Busy,
            _ => ErrorKind::Failed,
        }
    }
}

impl StopError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Failed
    }
}
