//! Asks the kernel which pages of another process's memory were written to, and protects them again in the
//! same step: `PAGEMAP_SCAN` on `/proc/PID/pagemap`, of Linux 6.7 and newer.
//!
//! Reading another process's page map takes the right to look into it (ptrace's reading access): the same user
//! and not less capabilities, which a child that we started fulfils.

#![allow(unsafe_code, reason = "a system call that no safe wrapper is at hand for")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

use super::page_set::PageSet;
use crate::limits::SCAN_RANGES_MAX;

// From <linux/fs.h>; Debian 12's headers are older.
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: Opcode = 0xc060_6610;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Argument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

/// One call. The vector that the kernel writes to is borrowed for as long as the call lasts.
struct Scan<'a> {
    argument: Argument,
    found: &'a mut [Found],
}

/// What one call came to.
struct Reached {
    /// Entries of the vector that were filled.
    count: usize,
    /// Where the next call has to go on.
    at: u64,
}

// SAFETY: the opcode belongs to `struct pm_scan_arg`, whose layout `Argument` has. The kernel writes to it
// and to `vec_len` entries of the vector at `vec`, which are those of `found`, borrowed mutably.
unsafe impl Ioctl for Scan<'_> {
    type Output = Reached;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        PAGEMAP_SCAN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument.vec = self.found.as_mut_ptr() as u64;
        self.argument.vec_len = self.found.len() as u64;
        (&raw mut self.argument).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, argument: *mut c_void) -> rustix::io::Result<Reached> {
        let count = usize::try_from(output).map_err(|_| Errno::INVAL)?;
        // SAFETY: this is the pointer that `as_ptr` gave, and the argument is still there.
        let at = unsafe { (*argument.cast::<Argument>()).walk_end };
        Ok(Reached { count, at })
    }
}

/// A range of a process's memory that is protected by userfaultfd in asynchronous mode.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
    start: u64,
    bytes: u64,
    found: Vec<Found>,
}

impl Pagemap {
    /// The memory of a process, from an address on.
    ///
    /// # Errors
    /// If we may not look into that process.
    pub(crate) fn open(pid: u32, start: u64, bytes: u64) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self { file, start, bytes, found: vec![Found::default(); SCAN_RANGES_MAX] })
    }

    /// Puts the pages that were written since the last time into the set, and protects them again.
    ///
    /// # Errors
    /// If the kernel can't do it. Pages may be protected again by then: whoever called has to take all of
    /// them for written.
    pub(crate) fn scan(&mut self, written: &mut PageSet) -> io::Result<()> {
        let (begin, end) = (self.start, self.start + self.bytes);
        let mut at = begin;
        // Each call gets further by at least a page, so this ends.
        while at < end {
            let argument = Argument {
                size: size_of::<Argument>() as u64,
                flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
                start: at,
                end,
                category_mask: PAGE_IS_WRITTEN,
                return_mask: PAGE_IS_WRITTEN,
                ..Argument::default()
            };
            let scan = Scan { argument, found: &mut self.found };
            // SAFETY: see the implementation of `Ioctl`.
            let reached = match unsafe { ioctl(self.file.as_fd(), scan) } {
                Ok(reached) => reached,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let Reached { count, at: next } = reached;
            if next <= at || next > end || count > self.found.len() {
                return Err(io::Error::other(format!("PAGEMAP_SCAN went from {at:#x} to {next:#x}")));
            }
            for range in &self.found[..count] {
                if range.start < begin || range.end > end || range.start > range.end {
                    return Err(io::Error::other("PAGEMAP_SCAN found what it was not asked for"));
                }
                written.insert(range.start - begin..range.end - begin);
            }
            at = next;
        }
        Ok(())
    }
}
