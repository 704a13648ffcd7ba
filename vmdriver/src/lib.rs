//! Starts, snapshots, restores and stops VMs: one trait, and QEMU behind it.
//!
//! Guest memory is a shared memory file that this process holds too, and the kernel notes which of its pages the
//! guest writes to. A snapshot hands nearly all that changed to the sink while the guest runs; in the pause, of 2 to
//! 3 ms, QEMU saves the small state of its devices while the pages that were written last are copied; they are handed
//! over when the guest runs again. A restore fills a new memory file while QEMU starts, then loads the devices' state.
//! See `ARCHITECTURE.md` for the measurements behind this choice.
//!
//! ```text
//! driver ........ the traits                   qemu ......... QemuDriver: checks and launches
//! spec .......... what a VM is made of         vm ........... a running one: snapshot, state, stop
//! command_line .. spec → arguments             prepared ..... one about to be restored
//! command ....... a driver that calls programs of the user's own instead
//! qmp ........... QEMU's control protocol      device_state . saving and loading the devices
//! precopy ....... memory in a snapshot         standstill ... the pause
//! tracking ...... what was written to it       staging ...... copies of what was
//! process ....... a child that dies with us    kvm, host .... what this machine can do
//! disk .......... the guest's disk, a process  vm_disk ...... the disk as part of a VM
//! guest ......... the agent and the channel inside it
//! ```
//!
//! Synchronous throughout: callers with an async runtime use a thread for blocking work. Requirement
//! numbers (P1–P41) refer to `docs/paper.md`.

#[doc(hidden)]
pub mod fuzzing;
pub mod limits;

mod cgroup;
mod command;
mod command_line;
mod device_header;
mod device_state;
pub mod disk;
mod driver;
mod error;
mod features;
mod forwards;
mod guest;
mod host;
mod image_info;
mod kvm;
mod launch;
mod lines;
mod memory_file;
mod output;
mod patience;
mod precopy;
mod prepared;
mod process;
mod qemu;
mod qmp;
mod region_bytes;
mod spec;
mod staging;
mod stall;
mod standstill;
mod tracking;
mod vm;
mod vm_disk;
mod watch;

pub use command::{CommandDriver, CommandSettings, ProgramError, Verb};
pub use driver::{
    CheckReport, ExitReport, PreparedVm, REGION_DEVICE, REGION_DISK, REGION_RAM, ResumeTimings,
    SnapshotScope, SnapshotSink, SnapshotTimings, TrackingReport, Vm, VmDriver, VmState,
};
pub use error::{CheckError, ErrorKind, SnapshotError, StartError, StopError};
pub use guest::{
    CHANNEL_PORT, ChannelEnd, ChannelInput, ChannelLink, GuestAgent, GuestCommand, GuestError, GuestExit,
    WakeReport, WakeStep,
};
pub use image_info::{ImageError, ImageFormat, ImageInfo, inspect_image};
pub use output::CONSOLE_FILE;
pub use qemu::QemuDriver;
pub use qmp::QmpError;
pub use spec::{
    Accel, CPU_DEFAULT, DiskSpec, KERNEL_ARGS_DEFAULT, MACHINE_DEFAULT, MEMORY_BYTES_DEFAULT, PortForward,
    SpecError, VmSpec,
};
pub use vm_disk::remove_left_behind;
