//! `cat`: exactly the bytes that were asked for.

use proptest::prelude::*;
use sustain_inspect::{CatError, cat};
use sustain_proto::RegionName;

use crate::support::{Bench, noise};

const MIB: usize = 1 << 20;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

#[test]
fn any_range_is_what_was_pushed() {
    let bench = Bench::new();
    let mut bytes = noise(1, 5 * MIB + 777);
    bytes[MIB..3 * MIB + 5].fill(0);
    let id = bench.push("s", &[("ram", &bytes)]);
    let reader = bench.store.open_snapshot(id).unwrap();
    let check = |offset: usize, length: Option<usize>| {
        let mut out = Vec::new();
        let length_given = length.map(|length| length as u64);
        let count = cat(&reader, &region("ram"), offset as u64, length_given, &mut out).unwrap();
        let end = length.map_or(bytes.len(), |length| offset + length);
        assert!(out == bytes[offset..end] && count == out.len() as u64, "{offset} {length:?}");
    };
    check(0, None);
    check(bytes.len(), None);
    check(bytes.len(), Some(0));
    check(2 * MIB, Some(1));
    proptest!(ProptestConfig::with_cases(60), |(offset in 0..5 * MIB, length in 0..3 * MIB)| {
        check(offset, Some(length.min(bytes.len() - offset)));
    });
}

#[test]
fn what_is_not_there_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let id = bench.push("s", &[("ram", &[1; 100]), ("disk0", b"x")]);
    let reader = bench.store.open_snapshot(id).unwrap();
    let mut out = Vec::new();
    for (offset, length) in
        [(101, None), (0, Some(101)), (100, Some(1)), (u64::MAX, Some(u64::MAX)), (u64::MAX, None)]
    {
        let refused = cat(&reader, &region("ram"), offset, length, &mut out).unwrap_err();
        assert!(matches!(refused, CatError::Outside { bytes: 100, .. }), "{refused:?}");
    }
    let refused = cat(&reader, &region("disk9"), 0, None, &mut out).unwrap_err().to_string();
    assert!(refused.contains("has no region disk9, but ram, disk0"), "{refused}");
    assert_eq!(out, b"");
}

#[test]
fn what_comes_before_the_damage_is_right() {
    let bench = Bench::new();
    let bytes = noise(1, 12 * MIB);
    let id = bench.push("s", &[("ram", &bytes)]);
    let pack =
        bench.files("packs").into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    let mut stored = std::fs::read(&pack).unwrap();
    let at = stored.len() * 3 / 4;
    stored[at] ^= 1;
    std::fs::write(&pack, stored).unwrap();
    let reader = bench.store.open_snapshot(id).unwrap();
    let mut out = Vec::new();
    let refused = cat(&reader, &region("ram"), 0, None, &mut out).unwrap_err();
    assert!(matches!(refused, CatError::Read(_)), "{refused:?}");
    assert!(bytes.starts_with(&out) && out.len() < bytes.len());
}

/// A writer that takes so many bytes and no more.
struct Narrow(usize);

impl std::io::Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Threads that decode must not wait for ever for a writer that has given up.
#[test]
fn a_reader_that_goes_away_ends_it() {
    let bench = Bench::new();
    let id = bench.push("s", &[("ram", &noise(1, 20 * MIB))]);
    let reader = bench.store.open_snapshot(id).unwrap();
    let refused = cat(&reader, &region("ram"), 0, None, &mut Narrow(MIB + 5)).unwrap_err();
    assert!(matches!(refused, CatError::Write(error) if error.kind() == std::io::ErrorKind::BrokenPipe));
}
