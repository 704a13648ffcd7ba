//! Tests of requests.

use proptest::prelude::*;

use super::*;

const DISK_BYTES: u64 = 1 << 20;
const ALL: Session = Session { structured: true, block_status: true };

fn head(flags: u16, command: u16, offset: u64, bytes: u32) -> [u8; REQUEST_BYTES] {
    let mut head = MAGIC_REQUEST.to_be_bytes().to_vec();
    head.extend(flags.to_be_bytes());
    head.extend(command.to_be_bytes());
    head.extend(77_u64.to_be_bytes());
    head.extend(offset.to_be_bytes());
    head.extend(bytes.to_be_bytes());
    head.try_into().unwrap()
}

fn action(flags: u16, command: u16, offset: u64, bytes: u32) -> Result<Action, Errno> {
    Request::parse(&head(flags, command, offset, bytes)).unwrap().action(ALL, DISK_BYTES)
}

#[test]
fn every_command_is_known() {
    assert_eq!(action(0, command::READ, 0, 512), Ok(Action::Read { in_one_chunk: false }));
    assert_eq!(action(flag::FUA, command::WRITE, 0, 512), Ok(Action::Write { durable: true }));
    assert_eq!(action(0, command::FLUSH, u64::MAX, u32::MAX), Ok(Action::Flush));
    assert_eq!(action(0, command::TRIM, 0, 512), Ok(Action::Trim { durable: false }));
    assert_eq!(action(0, command::CACHE, 0, 512), Ok(Action::Cache));
    let flags = flag::NO_HOLE | flag::FUA;
    assert_eq!(
        action(flags, command::WRITE_ZEROES, 0, 9),
        Ok(Action::Zero { durable: true, allocate: true })
    );
    assert_eq!(action(8, command::BLOCK_STATUS, 0, 9), Ok(Action::BlockStatus { one: true }));
    assert_eq!(action(0, command::DISCONNECT, 0, 0), Ok(Action::Disconnect));
}

#[test]
fn what_may_not_be_is_answered_with_its_error() {
    assert_eq!(action(0, command::READ, DISK_BYTES, 1), Err(Errno::Invalid));
    assert_eq!(action(0, command::READ, u64::MAX, 2), Err(Errno::Invalid));
    assert_eq!(action(0, command::WRITE, DISK_BYTES - 1, 2), Err(Errno::NoSpace));
    assert_eq!(action(0, 99, 0, 1), Err(Errno::Invalid));
    assert_eq!(action(1 << 9, command::WRITE, 0, 1), Err(Errno::Invalid));
    assert_eq!(
        action(flag::NO_HOLE | flag::FAST_ZERO, command::WRITE_ZEROES, 0, 1),
        Err(Errno::NotSupported)
    );
    let request = Request::parse(&head(flag::DONT_FRAGMENT, command::READ, 0, 1)).unwrap();
    assert_eq!(request.action(Session::default(), DISK_BYTES), Err(Errno::Invalid));
    let long = Request::parse(&head(0, command::READ, 0, NBD_REQUEST_BYTES_MAX + 1)).unwrap();
    assert_eq!(long.action(ALL, 1 << 40), Err(Errno::Overflow));
    assert!(Request::parse(&head(0, command::WRITE, 0, NBD_REQUEST_BYTES_MAX + 1)).is_err());
    assert!(Request::parse(&[0; REQUEST_BYTES]).is_err());
}

proptest! {
    /// Whatever is let through stays within the disk and within the memory that it may take.
    #[test]
    fn what_is_let_through_is_within_bounds(
        flags in any::<u16>(), command in 0_u16..9, offset in any::<u64>(), bytes in any::<u32>(),
        near in any::<bool>(),
    ) {
        let offset = if near { offset % (2 * DISK_BYTES) } else { offset };
        if let Ok(request) = Request::parse(&head(flags, command, offset, bytes)) {
            prop_assert!(request.memory_bytes() <= NBD_REQUEST_BYTES_MAX);
            match request.action(ALL, DISK_BYTES) {
                Ok(Action::Flush | Action::Disconnect) | Err(_) => {}
                Ok(_) => prop_assert!(offset + u64::from(bytes) <= DISK_BYTES),
            }
        }
    }
}
