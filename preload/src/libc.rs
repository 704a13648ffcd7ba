//! The few functions and numbers of the C library and the kernel that are needed, declared here so that
//! the library depends on nothing else.

#![allow(unsafe_code, reason = "declarations of C functions")]

use std::ffi::{c_int, c_long, c_uint, c_ulong, c_void};

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("the layouts and numbers here are those of 64-bit Linux");

// SAFETY: these are the C library's own declarations, on every 64-bit Linux.
unsafe extern "C" {
    pub(crate) fn syscall(number: c_long, ...) -> c_long;
    pub(crate) fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
    pub(crate) fn sendmsg(descriptor: c_int, message: *const MessageHeader, flags: c_int) -> isize;
    fn __errno_location() -> *mut c_int;
}

#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_MMAP: c_long = 9;
#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_USERFAULTFD: c_long = 323;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_MMAP: c_long = 222;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_USERFAULTFD: c_long = 282;

pub(crate) const MAP_SHARED: c_int = 1;
pub(crate) const MSG_NOSIGNAL: c_int = 0x4000;
pub(crate) const SOL_SOCKET: c_int = 1;
pub(crate) const SCM_RIGHTS: c_int = 1;
pub(crate) const O_NONBLOCK: c_int = 0o4000;
pub(crate) const O_CLOEXEC: c_int = 0o2_000_000;

/// `struct iovec`.
#[repr(C)]
pub(crate) struct IoSlice {
    pub(crate) base: *mut c_void,
    pub(crate) bytes: usize,
}

/// `struct msghdr`, as the kernel and glibc lay it out.
#[repr(C)]
pub(crate) struct MessageHeader {
    pub(crate) name: *mut c_void,
    pub(crate) name_bytes: c_uint,
    pub(crate) slices: *mut IoSlice,
    pub(crate) slice_count: usize,
    pub(crate) control: *mut c_void,
    pub(crate) control_bytes: usize,
    pub(crate) flags: c_int,
}

/// `struct cmsghdr` with room for one descriptor, padded as `CMSG_SPACE` does.
#[repr(C, align(8))]
pub(crate) struct OneDescriptor {
    pub(crate) bytes: usize,
    pub(crate) level: c_int,
    pub(crate) kind: c_int,
    pub(crate) descriptor: c_int,
}

/// `CMSG_LEN(sizeof(int))`: what is in a [`OneDescriptor`] without its padding.
pub(crate) const ONE_DESCRIPTOR_BYTES: usize = 20;

/// This thread's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: the C library always returns a valid pointer to the calling thread's own errno.
    unsafe { *__errno_location() }
}

/// Puts it back.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: as for `errno`; nobody else writes this thread's errno.
    unsafe { *__errno_location() = value }
}
