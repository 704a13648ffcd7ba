//! Preloaded into QEMU: wraps `mmap`, and has the kernel note every write to the guest's memory.
//!
//! ```text
//! loaded ─▶ reads SUSTAIN_TRACK
//! mmap of the announced file, shared and whole ─▶ connects to the driver's socket ─▶ userfaultfd over it
//!                                              ─▶ descriptor and address to the driver
//! any other mmap ─▶ as ever
//! ```
//! Only whoever maps the file connects, and the environment stays as it is: scripts around QEMU, such as Debian's
//! `kvm`, load the library as well, and pass it on.
//!
//! QEMU is not disturbed, whatever happens: the mapping that it asked for is what it gets, `errno` included.
//! The descriptor is not kept: the driver's copy keeps the protection up, so that dropping it ends the tracking.

#![allow(unsafe_code, reason = "a wrapper of a C function is called by C and calls C")]

mod libc;
mod message;
mod protect;

use std::ffi::{c_int, c_long, c_void};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use message::{REPORT_BYTES, Report, Step, VARIABLE};

/// The announced file: 0 bytes if there is none.
static BYTES: AtomicU64 = AtomicU64::new(0);
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);

/// The driver's socket, until it was connected to.
static SOCKET: Mutex<Option<SocketAddr>> = Mutex::new(None);

/// Called by the dynamic loader before `main`, while there is one thread only.
// SAFETY: entries of .init_array are pointers to functions of the C calling convention.
#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

extern "C" fn on_load() {
    if let Some(text) = std::env::var_os(VARIABLE) {
        text.to_str().and_then(announced);
    }
}

/// Keeps what was announced.
fn announced(text: &str) -> Option<()> {
    let mut parts = text.splitn(4, ':');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (bytes, device, inode) = (number()?, number()?, number()?);
    *SOCKET.lock().ok()? = Some(SocketAddr::from_abstract_name(parts.next()?).ok()?);
    BYTES.store(bytes, SeqCst);
    DEVICE.store(device, SeqCst);
    INODE.store(inode, SeqCst);
    Some(())
}

/// The C library's `mmap`, and a look at what was mapped.
///
/// # Safety
/// As for `mmap(2)`.
// SAFETY: the name is taken on purpose; the function has the C library's signature and does what it does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's own arguments, passed on as they are: it answers for them, as ever.
    let result =
        unsafe { libc::syscall(libc::SYS_MMAP, address, bytes, protection, flags, descriptor, offset) };
    let mapped = result as *mut c_void;
    let is_candidate = flags & libc::MAP_SHARED != 0 && descriptor >= 0 && offset == 0;
    if result != -1 && is_candidate && bytes as u64 == BYTES.load(SeqCst) {
        let errno = libc::errno();
        look_at(mapped, bytes, descriptor);
        libc::set_errno(errno);
    }
    mapped
}

/// The same under its other name, which QEMU uses.
///
/// # Safety
/// As for `mmap(2)`.
// SAFETY: as for `mmap`: on 64-bit systems the two are one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's own arguments.
    unsafe { mmap(address, bytes, protection, flags, descriptor, offset) }
}

/// Protects the mapping if it is the announced file's, and reports. Happens once.
fn look_at(mapped: *mut c_void, bytes: usize, descriptor: c_int) {
    // SAFETY: the caller of mmap has this descriptor open; it is only looked at, and never closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    let Ok(metadata) = file.metadata() else { return };
    if metadata.dev() != DEVICE.load(SeqCst) || metadata.ino() != INODE.load(SeqCst) {
        return;
    }
    // Its bytes are looked at before anything else, so that no other mapping gets here: a lock that is held can
    // only be another thread's.
    let Some(socket) = SOCKET.lock().ok().and_then(|mut socket| socket.take()) else { return };
    // Nobody listens any more if somebody else has reported.
    let Ok(connection) = UnixStream::connect_addr(&socket) else { return };
    let protected = protect::protect(mapped, bytes);
    let (step, errno) = match &protected {
        Ok(_) => (Step::Done, 0),
        Err(failure) => (failure.step, failure.errno),
    };
    let report = Report { step, errno, address: mapped as u64, bytes: bytes as u64 };
    send(&connection, report, protected.as_ref().ok());
    // What is not sent is closed here, and the protection ends with it.
}

/// One message, with the descriptor if there is one. If it can't be sent, the driver finds none and says so.
fn send(connection: &UnixStream, report: Report, descriptor: Option<&OwnedFd>) {
    let mut text: [u8; REPORT_BYTES] = report.to_bytes();
    let mut slice = libc::IoSlice { base: text.as_mut_ptr().cast(), bytes: text.len() };
    let mut rights = libc::OneDescriptor {
        bytes: libc::ONE_DESCRIPTOR_BYTES,
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        descriptor: descriptor.map_or(-1, AsRawFd::as_raw_fd),
    };
    let (control, control_bytes) = match descriptor {
        Some(_) => ((&raw mut rights).cast(), size_of::<libc::OneDescriptor>()),
        None => (std::ptr::null_mut(), 0),
    };
    let message = libc::MessageHeader {
        name: std::ptr::null_mut(),
        name_bytes: 0,
        slices: &raw mut slice,
        slice_count: 1,
        control,
        control_bytes,
        flags: 0,
    };
    // SAFETY: every pointer in the message leads to a value that lives until the call returns, and each
    // count is that value's own.
    unsafe { libc::sendmsg(connection.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
}

// A call of this many arguments has to have the width that the kernel expects.
const _: () = assert!(size_of::<c_long>() == 8 && size_of::<usize>() == 8);
