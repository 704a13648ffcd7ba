//! Bounds on everything that this crate waits for, keeps or takes in.

use std::time::Duration;

/// Least guest memory: Debian's cloud kernel needs about 100 MiB to unpack itself and start a shell.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;

/// Guest memory is a multiple of this, so that no QEMU rounds it and the memory file's size stays exact.
pub const MEMORY_BYTES_STEP: u64 = 1 << 20;

/// What QEMU needs beside the guest's memory: its own pages and, without KVM, translated code. Measured:
/// 60 to 190 MiB under TCG with [`TCG_BUFFER_MIB`].
pub const QEMU_OVERHEAD_BYTES: u64 = 224 << 20;

/// MiB of translated code that TCG keeps. QEMU's own default is up to 1 GiB, which would make the
/// overhead unknowable; the test guest's working set is under 40 MiB.
pub const TCG_BUFFER_MIB: u32 = 128;

/// Most virtual processors. A guess at what a service needs; QEMU's q35 would take 288.
pub const CPUS_MAX: u32 = 64;

/// Most characters of the kernel's command line: `COMMAND_LINE_SIZE` of Linux on x86, less the end mark.
pub const KERNEL_ARGS_BYTES_MAX: usize = 2047;

/// Most forwarded ports.
pub const FORWARDS_MAX: usize = 64;

/// Most characters of a machine type's or a processor model's name.
pub const MODEL_NAME_BYTES_MAX: usize = 256;

/// Most bytes of saved device state. The test guest's is about 0.3 MB; the firmware's and graphics ROMs
/// that a richer machine has stay under 32 MiB.
pub const DEVICE_BYTES_MAX: u64 = 128 << 20;

/// Most bytes of one line that QEMU sends. Its longest answers (schemas, which are not asked for here)
/// have about 200 KiB.
pub const QMP_LINE_BYTES_MAX: usize = 1 << 20;

/// Most events kept until somebody asks; the oldest go first.
pub const QMP_EVENTS_MAX: usize = 256;

/// An ordinary command is answered within a millisecond; a machine that swaps may need seconds.
pub const QMP_COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// From starting QEMU to its greeting. Measured 0.14 to 0.3 s.
pub const QEMU_START_TIMEOUT: Duration = Duration::from_secs(30);

/// Saving device state takes 4 to 10 ms. The guest stands still meanwhile, so give up early.
pub const DEVICE_SAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Loading device state takes 15 to 40 ms.
pub const DEVICE_LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long QEMU may take to quit when asked, before it is killed.
pub const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the check of KVM waits for its loop to end. It takes 2 ms where KVM works; the rest is for a
/// host that is busy.
pub const KVM_PROBE_TIMEOUT: Duration = Duration::from_millis(700);

/// How long `qemu --version` may take.
pub const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a console log at which it is renamed to `console.log.1` and begun anew.
pub const CONSOLE_FILE_BYTES_MAX: u64 = 1 << 20;

/// Last bytes of QEMU's and the guest's output that are kept for error messages.
pub const OUTPUT_TAIL_BYTES_MAX: usize = 4 << 10;

/// Pause between two looks at something that QEMU sends no event for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(2);
