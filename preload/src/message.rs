//! What the library tells the driver, once. Both crates compile this file.

/// First bytes of a report; the last digit is the format's version.
const MAGIC: [u8; 8] = *b"SUSTWP01";

/// Bytes of a report.
pub(crate) const REPORT_BYTES: usize = 32;

/// The environment variable by which the driver announces the guest's memory file:
/// `bytes:device:inode:socket`, the socket in the abstract namespace.
pub(crate) const VARIABLE: &str = "SUSTAIN_TRACK";

/// How far the library came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    /// All is done: the descriptor comes along, and every write from now on is noted.
    Done = 0,
    /// Making a userfaultfd failed.
    Open = 1,
    /// Agreeing on features failed: the kernel is too old.
    Features = 2,
    /// Registering the memory failed.
    Register = 3,
    /// Protecting the memory failed.
    Protect = 4,
}

/// What became of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// The step that failed, or that all are done.
    pub(crate) step: Step,
    /// Why it failed; 0 if nothing did.
    pub(crate) errno: i32,
    /// Where QEMU has the memory.
    pub(crate) address: u64,
    /// Its size.
    pub(crate) bytes: u64,
}

#[allow(dead_code, reason = "the library only writes reports, the driver only reads them")]
impl Report {
    /// As it is sent.
    #[must_use]
    pub(crate) fn to_bytes(self) -> [u8; REPORT_BYTES] {
        let mut bytes = [0; REPORT_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&(self.step as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.errno.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.address.to_le_bytes());
        bytes[24..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// As it was received; none if it is no report.
    #[must_use]
    pub(crate) fn from_bytes(bytes: &[u8; REPORT_BYTES]) -> Option<Self> {
        let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let eight = |at: usize| {
            let (low, high) = (u32::from_le_bytes(four(at)), u32::from_le_bytes(four(at + 4)));
            u64::from(high) << 32 | u64::from(low)
        };
        let step = match u32::from_le_bytes(four(8)) {
            0 => Step::Done,
            1 => Step::Open,
            2 => Step::Features,
            3 => Step::Register,
            4 => Step::Protect,
            _ => return None,
        };
        let errno = i32::from_le_bytes(four(12));
        (bytes[..8] == MAGIC).then(|| Self { step, errno, address: eight(16), bytes: eight(24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_way() {
        for step in [Step::Done, Step::Open, Step::Features, Step::Register, Step::Protect] {
            let report = Report { step, errno: 38, address: 0x7fff_0123_4567_8000, bytes: 3 << 33 };
            assert_eq!(Report::from_bytes(&report.to_bytes()), Some(report));
        }
    }

    #[test]
    fn what_is_no_report_is_not_taken_for_one() {
        let good = Report { step: Step::Done, errno: 0, address: 4_096, bytes: 4_096 }.to_bytes();
        for (at, value) in [(0, b'x'), (7, b'2'), (8, 5), (11, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Report::from_bytes(&bad), None, "byte {at}");
        }
    }
}
