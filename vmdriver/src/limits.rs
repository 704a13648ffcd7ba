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

/// Most bytes of saved device state. The test guest's is about 80 KB; the firmware's and graphics ROMs
/// that a richer machine has stay under 32 MiB.
pub const DEVICE_BYTES_MAX: u64 = 128 << 20;

/// Most bytes of one line that QEMU sends. Its longest answers (schemas, which are not asked for here)
/// have about 200 KiB.
pub const QMP_LINE_BYTES_MAX: usize = 1 << 20;

/// Most events kept until somebody asks; the oldest go first.
pub const QMP_EVENTS_MAX: usize = 256;

/// An ordinary command is answered within a millisecond; a machine that swaps may need seconds.
pub const QMP_COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a QEMU that was silent before may take for each further command, and any for the question whether
/// it is there. With [`QMP_COMMAND_TIMEOUT`] it bounds how long a QEMU that hangs keeps its service: the command
/// that finds out, the attempt to let the guest go on, and the question.
pub const QMP_WATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two questions to a QEMU that nothing else is asked of.
pub const QMP_WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// From starting QEMU to its greeting. Measured 0.14 to 0.3 s.
pub const QEMU_START_TIMEOUT: Duration = Duration::from_secs(30);

/// Saving device state takes 1 to 3 ms. The guest stands still meanwhile, so give up early.
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

/// Written ranges that the kernel tells in one call; what is more takes another. 24 bytes each.
pub const SCAN_RANGES_MAX: usize = 16 * 1_024;

/// Most threads that compare memory: more don't get more out of the memory itself. A guess.
pub const COMPARE_THREADS_MAX: usize = 8;

/// Rounds in which memory is handed to the sink while the guest runs. After them what is left is staged, however
/// much it is, if need be in a file: a guest that writes faster than the store takes in would keep it up for ever.
pub const DIRECT_ROUNDS_MAX: u32 = 3;

/// Rounds of copying before the pause. Each leaves what was written during the one before: measured, the
/// third has nothing left to gain.
pub const STAGE_ROUNDS_MAX: u32 = 3;

/// Written pages at which the pause may begin: copying them takes 0.1 ms.
pub const STAGE_PAGES_FEW: u64 = 64;

/// Room for chunks that are first written just before the pause. Beyond it the pause waits for memory.
pub const PAUSE_RESERVE_CHUNKS: u64 = 256;

/// Most bytes of copied memory before more is handed to the sink directly: half of a small guest's memory, so that
/// a busy one fits, and no more than a host of many guests can spare.
#[must_use]
pub const fn staging_bytes_max(memory_bytes: u64) -> u64 {
    const LEAST: u64 = 64 << 20;
    const MOST: u64 = 256 << 20;
    let half = memory_bytes / 2;
    if half < LEAST {
        LEAST
    } else if half > MOST {
        MOST
    } else {
        half
    }
}

/// Bytes of copies that are kept from one snapshot to the next, so that memory need not be had each time.
pub const STAGING_KEPT_BYTES: usize = 64 << 20;

/// Most bytes of the description in front of the device state. It has about 500.
pub const DEVICE_HEADER_BYTES_MAX: usize = 64 << 10;

/// Most registers of processor features. QEMU 10 tells 40.
pub const FEATURE_WORDS_MAX: usize = 256;

/// How long the library in QEMU may take for its report, which it sends before QEMU answers at all.
pub const PRELOAD_REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections of other processes that are passed over before the library's is given up.
pub const PRELOAD_STRANGERS_MAX: usize = 16;
/// Pause between two looks at something that QEMU sends no event for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How long the reading of a process's output may go on after its end. What was written before is there
/// already; only a child that was left behind could hold it up.
pub const OUTPUT_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Most control groups above one another that are looked at for a limit of memory. systemd nests about five.
pub const CGROUP_DEPTH_MAX: usize = 64;

/// Bytes of what `run-in-guest` writes that are handed over at a time: a pipe of Linux holds as much.
pub const COMMAND_PART_BYTES: usize = 64 << 10;

/// Between two looks whether a program of the command driver has ended, or need not go on. Its last word wakes at once.
pub const COMMAND_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Two writes to a file that are further apart than this have different times: a tick of the kernel is 10 ms at most.
pub const FILE_TIME_GRAIN: Duration = Duration::from_millis(20);

/// Most bytes that are kept of what the other programs of the command driver write to their standard output.
pub const COMMAND_OUTPUT_BYTES_MAX: usize = 1 << 20;

/// How long the program `check` may take.
pub const COMMAND_CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the program `alive` may take.
pub const COMMAND_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries of `alive` while a service starts.
pub const COMMAND_ALIVE_RETRY: Duration = Duration::from_millis(20);

/// Between two calls of `alive` while a service runs. A guess: it costs a process.
pub const COMMAND_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How often in a row `alive` must fail before a running service counts as hung.
pub const COMMAND_ALIVE_FAILURES: u32 = 3;

/// How long the program `run-in-guest` may take: a merge of mailboxes takes minutes.
pub const COMMAND_GUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// How long, and how many seconds of a processor, `qemu-img info` may take. It takes 20 ms.
pub const IMAGE_INFO_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of address space for `qemu-img info`, whatever an image's header says. It needs about 300 MiB.
pub const IMAGE_INFO_BYTES_MAX: u64 = 1 << 30;
/// Longest request of an NBD client: what the specification lets a server assume at most, and QEMU's own
/// limit.
pub const NBD_REQUEST_BYTES_MAX: u32 = 32 << 20;

/// Memory for all NBD requests in flight: two of the longest.
pub const NBD_MEMORY_BYTES_MAX: u64 = 64 << 20;

/// What one client may have of that: one of the longest, so that no two are held up by a third.
pub const NBD_SHARE_BYTES_MAX: u64 = NBD_REQUEST_BYTES_MAX as u64;

/// Memory that each NBD client has for itself, for requests no longer than this: guests ask for 1 or 2 MiB at most
/// at a time, and so never wait for what another client does.
pub const NBD_OWN_BYTES_MAX: u64 = 4 << 20;

/// How long an NBD client may take to send the rest of a request that it has begun. A local one takes milliseconds for
/// the longest; one that the system held up for so long connects again.
pub const NBD_PAYLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Most NBD connections: QEMU has one, nbdcopy four.
pub const NBD_CONNECTIONS_MAX: usize = 16;

/// Threads that carry out one client's requests. A read that waits for a chunk from elsewhere holds one.
pub const NBD_WORKERS: usize = 8;

/// Requests of one client that are read and not begun.
pub const NBD_QUEUE_MAX: usize = 16;

/// Most options of an NBD client; QEMU sends five.
pub const NBD_OPTIONS_MAX: usize = 64;

/// Most bytes of an NBD option: a name of the longest kind and some queries.
pub const NBD_OPTION_BYTES_MAX: u32 = 16 << 10;

/// Longest name in an NBD option, by the specification.
pub const NBD_NAME_BYTES_MAX: usize = 4_096;

/// Most pieces in one answer about what is where.
pub const NBD_EXTENTS_MAX: usize = 1_024;

/// Bytes of a read that are sent at once.
pub const NBD_REPLY_BYTES_MAX: usize = 256 << 10;

/// Bytes taken from an NBD client at once: some requests' heads.
pub const NBD_READ_BUFFER_BYTES: usize = 64 << 10;

/// How long an NBD client may take over the negotiation, and to take in a reply. QEMU takes none while it
/// does nothing else, such as saving a big device state.
pub const NBD_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The grain at which a disk's layers tell written from unwritten: the page size, and ext4's block.
pub const DISK_BLOCK_BYTES: u64 = 4_096;

/// Largest disk. Two bits a block make 512 MiB of map for it, where all of it is written.
pub const DISK_BYTES_MAX: u64 = 4 << 40;

/// Most frozen layers of a disk. One is being read for a snapshot, one is being folded; with a third
/// snapshot the store would be behind by more than it can ever make good.
pub const FROZEN_LAYERS_MAX: usize = 2;

/// Pause after a fold that failed.
pub const FOLD_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a guest's read waits for a chunk before the VM is paused instead. A VM can't be snapshotted
/// while a read waits, so it is short; a chunk from a neighbour takes tens of milliseconds.
pub const DEMAND_PATIENCE: Duration = Duration::from_secs(2);

/// How long a snapshot waits for a moment in which no read waits for a chunk; the guest runs meanwhile.
pub const DISK_STILL_PATIENCE: Duration = Duration::from_millis(200);

/// A read that has waited for its chunk for longer than this is taken to be out of reach, and no snapshot is
/// begun: the pause would last as long as it does. A chunk from a neighbour takes tens of milliseconds.
pub const DISK_WAIT_MAX: Duration = Duration::from_millis(100);

/// Pause between two tries to get a chunk that a guest waits for.
pub const DEMAND_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// First and longest pause of the prefetch after a chunk that was not to be had.
pub const PREFETCH_RETRY_MIN: Duration = Duration::from_millis(200);
/// See [`PREFETCH_RETRY_MIN`].
pub const PREFETCH_RETRY_MAX: Duration = Duration::from_secs(10);

/// Most connections by which a disk's process asks for blocks: its workers and its prefetch.
pub const BLOCK_CONNECTIONS_MAX: usize = 256;

/// Such connections that are kept for the next request.
pub const BLOCK_CONNECTIONS_IDLE_MAX: usize = 16;

/// How long the node may take to come up with a block, or with the reason why it can't.
pub const BLOCK_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the disk's process may take to take in a block.
pub const BLOCK_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest reason why a block is not to be had.
pub const BLOCK_REASON_BYTES_MAX: usize = 1_024;

/// Longest message between the node and a disk's process.
pub const CONTROL_MESSAGE_BYTES_MAX: u32 = 64 << 10;

/// How long a disk's process may take to answer, its start included.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a freeze may take: the guest stands still meanwhile. It takes 0.1 ms; the rest is for a process
/// that has to be started again.
pub const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);

/// First and longest pause before a disk's process is started again.
pub const RESTART_PAUSE_MIN: Duration = Duration::from_millis(20);
/// See [`RESTART_PAUSE_MIN`].
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A disk's process that has lived so long is not to blame for what an earlier one did.
pub const RESTART_SETTLED: Duration = Duration::from_secs(5);

/// Seconds that QEMU waits for the disk's server to be there again before it pauses the VM.
pub const NBD_RECONNECT_SECONDS: u32 = 5;

/// Longest path of a Unix socket: `sun_path` of Linux has 108 bytes, the end mark included.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// First and longest pause before a VM that stands because of its disk is let go on.
pub const IO_RETRY_MIN: Duration = Duration::from_millis(250);
/// See [`IO_RETRY_MIN`].
pub const IO_RETRY_MAX: Duration = Duration::from_secs(5);

/// How long an image may take to be converted: a terabyte from a slow disk.
pub const CONVERT_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);

/// How long its conversion may say nothing. It tells each hundredth, which of a terabyte from a slow disk, at
/// 20 MB/s, takes nine minutes.
pub const CONVERT_SILENCE_MAX: Duration = Duration::from_secs(15 * 60);

/// Most bytes of one line that a guest's agent sends. Its longest answer here is a part of a file, encoded:
/// see [`AGENT_PART_BYTES`].
pub const AGENT_LINE_BYTES_MAX: usize = 1 << 20;

/// Bytes that are written to or read from a file in the guest at once. Both sides hold a part several
/// times, encoded and decoded; larger ones are hardly faster.
pub const AGENT_PART_BYTES: usize = 256 << 10;

/// Lines that answer nothing of ours before an agent is given up. After a restore there is at most one for
/// each command that was given before without an answer, and those are one at a time.
pub const AGENT_STALE_LINES_MAX: usize = 64;

/// An agent answers a command within milliseconds; a guest under emulation that has just been restored, or
/// whose disk is slow, within seconds.
pub const AGENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest pause between two looks whether a program in the guest has ended or written more.
pub const AGENT_POLL_INTERVAL_MAX: Duration = Duration::from_millis(200);

/// Last bytes of a program's standard error that are kept.
pub const GUEST_STDERR_BYTES_MAX: usize = 4 << 10;

/// Most bytes of a program's arguments and environment in the guest. Linux takes 2 MiB in all.
pub const GUEST_ARGUMENTS_BYTES_MAX: usize = 128 << 10;

/// How long setting a guest right after a restore may take. It serves meanwhile; most of it is waiting for
/// the second at which `hwclock` sets the hardware clock.
pub const WAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Most bytes of one line on the guest's channel, either way.
pub const CHANNEL_LINE_BYTES_MAX: usize = 4 << 10;

/// Lines to the guest that wait for it to read them. Further ones are dropped: the guest isn't reading.
pub const CHANNEL_LINES_WAITING_MAX: usize = 64;

/// Most bytes of input for a program that runs beside a service of the command driver: they are held in memory.
pub const COMMAND_INPUT_BYTES_MAX: u64 = 256 << 20;
