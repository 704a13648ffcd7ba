//! Has the kernel note which pages of a mapping are written to, by userfaultfd in its asynchronous
//! write-protect mode: the first write to a protected page lifts its protection and goes on, and nobody is
//! asked. Which pages have lost theirs is read from outside, by `PAGEMAP_SCAN`.
//!
//! Needs Linux 6.7 and no right at all: a descriptor for faults of user mode only is given to everybody, and the
//! restriction does not matter, because asynchronous faults are resolved by the kernel wherever they come from.

#![allow(unsafe_code, reason = "system calls that no safe wrapper is at hand for")]

use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::libc::{self, O_CLOEXEC, O_NONBLOCK};
use crate::message::Step;

// From <linux/userfaultfd.h>; Debian 12's headers are older than the last two features.
const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: c_int = 1;
const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

// _IOWR(0xaa, NUMBER, SIZE), and _IO(0xaa, 0) for the device.
const UFFDIO_API: c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: c_ulong = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: c_ulong = 0xc018_aa06;
const USERFAULTFD_IOC_NEW: c_ulong = 0xaa00;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    bytes: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    bytes: u64,
    mode: u64,
}

/// What failed, and the `errno` of it.
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: c_int,
}

/// Protects all of a mapping. Whoever holds the descriptor keeps the protection up.
pub(crate) fn protect(address: *mut c_void, bytes: usize) -> Result<OwnedFd, Failure> {
    let descriptor = open().map_err(|errno| Failure { step: Step::Open, errno })?;
    let (start, bytes) = (address as u64, bytes as u64);
    let features = FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED | FEATURE_WP_HUGETLBFS_SHMEM;
    call(&descriptor, UFFDIO_API, Step::Features, Api { api: UFFD_API, features, ioctls: 0 })?;
    let register = Register { start, bytes, mode: REGISTER_MODE_WP, ioctls: 0 };
    call(&descriptor, UFFDIO_REGISTER, Step::Register, register)?;
    // Pages that aren't there yet too: what is reported later is what was written from here on.
    let all = WriteProtect { start, bytes, mode: WRITEPROTECT_MODE_WP };
    call(&descriptor, UFFDIO_WRITEPROTECT, Step::Protect, all)?;
    Ok(descriptor)
}

fn call<T>(descriptor: &OwnedFd, request: c_ulong, step: Step, mut argument: T) -> Result<(), Failure> {
    // SAFETY: each request above goes with the structure of its own layout and size, which lives until the
    // call returns; the kernel writes nothing beyond it.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), request, &raw mut argument) };
    if result == 0 { Ok(()) } else { Err(Failure { step, errno: libc::errno() }) }
}

/// The system call with all rights, the one for user mode only, and the device with whatever rights it has.
fn open() -> Result<OwnedFd, c_int> {
    let plain = O_CLOEXEC | O_NONBLOCK;
    for flags in [plain, plain | UFFD_USER_MODE_ONLY] {
        // SAFETY: this system call takes flags and touches no memory.
        let result = unsafe { libc::syscall(libc::SYS_USERFAULTFD, flags) };
        if let Some(descriptor) = own(result) {
            return Ok(descriptor);
        }
    }
    // The reason that counts: the device is a way around it.
    let errno = libc::errno();
    let device = File::options().read(true).write(true).open("/dev/userfaultfd").map_err(|_| errno)?;
    // SAFETY: the request takes flags and touches no memory.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, plain) };
    own(c_long::from(result)).ok_or(errno)
}

fn own(result: c_long) -> Option<OwnedFd> {
    let number = c_int::try_from(result).ok().filter(|number| *number >= 0)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
