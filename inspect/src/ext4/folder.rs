//! Logic: the names in a block of a folder. An index of a large folder reads as names of nobody.

use super::fields::{le16, le32};
use super::{Ext4Fault, damaged};

const HEADER_BYTES: usize = 8;

/// A name and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    pub(crate) inode: u32,
    pub(crate) name: &'a [u8],
}

/// The names in a block, but for the folder's own and that of the one above. An error ends them.
pub(crate) fn names(block: &[u8]) -> impl Iterator<Item = Result<Name<'_>, Ext4Fault>> {
    let mut rest = block;
    let whole = block.len();
    std::iter::from_fn(move || {
        while rest.len() >= HEADER_BYTES {
            let (entry, inode, length) = (rest, le32(rest, 0), usize::from(le16(rest, 4)));
            // 64 KiB don't fit the field.
            let length = if whole == 1 << 16 && (length == 0 || length == 0xFFFF) { whole } else { length };
            let name =
                HEADER_BYTES.checked_add(usize::from(entry[6])).and_then(|end| entry.get(HEADER_BYTES..end));
            if length < HEADER_BYTES || length % 4 != 0 || length > rest.len() {
                rest = &[];
                return Some(Err(damaged("a name's length can't be")));
            }
            rest = &rest[length..];
            match name {
                Some(b"." | b".." | b"") => {}
                Some(name) if inode != 0 => return Some(Ok(Name { inode, name })),
                _ => {}
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(inode: u32, length: u16, name: &[u8]) -> Vec<u8> {
        let mut entry = inode.to_le_bytes().to_vec();
        entry.extend(length.to_le_bytes());
        entry.extend([name.len() as u8, 1]);
        entry.extend(name);
        entry.resize(usize::from(length), 0);
        entry
    }

    #[test]
    fn deleted_names_and_dots_are_left_out_and_a_length_of_nothing_ends_it() {
        let block =
            [entry(2, 12, b"."), entry(2, 12, b".."), entry(0, 16, b"gone"), entry(9, 12, b"abc")].concat();
        let found: Vec<_> = names(&block).map(|name| name.unwrap()).collect();
        assert_eq!(found, [Name { inode: 9, name: b"abc" }]);
        let broken = [entry(9, 12, b"abc"), vec![0; 20]].concat();
        assert!(names(&broken).nth(1).unwrap().is_err());
        assert_eq!(names(&broken).count(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_end(block in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(names(&block).count() <= 300 / HEADER_BYTES + 1);
        }
    }
}
