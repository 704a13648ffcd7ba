//! Lists whose length is checked while they are decoded.
//!
//! Bounding a message's bytes does not bound its memory: a megabyte of empty lists, a byte each, takes
//! 24 megabytes as vectors. So the count is checked against the list's own limit before the first element
//! is read, and again as elements come in. What is written stays as it is.

use std::fmt;
use std::marker::PhantomData;

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Elements for which room is made at once, whatever count a peer announces.
const RESERVE_MAX: usize = 64;

/// Decodes a list of at most `MAX` elements; for serde's `deserialize_with`.
///
/// # Errors
/// If there are more, or one can't be decoded.
pub fn list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(ListVisitor::<T, MAX>(PhantomData))
}

/// Decodes a set, or a map whose elements are pairs, of at most `MAX` elements; for serde's `deserialize_with`.
///
/// # Errors
/// If there are more, or one can't be decoded.
pub fn set<'de, D, T, C, const MAX: usize>(deserializer: D) -> Result<C, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    C: FromIterator<T>,
{
    Ok(list::<D, T, MAX>(deserializer)?.into_iter().collect())
}

/// Decodes at most `MAX` bytes; for serde's `deserialize_with`.
///
/// # Errors
/// If there are more.
pub fn bytes<'de, D: Deserializer<'de>, const MAX: usize>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
    deserializer.deserialize_bytes(BytesVisitor::<MAX>)
}

struct BytesVisitor<const MAX: usize>;

impl<const MAX: usize> Visitor<'_> for BytesVisitor<MAX> {
    type Value = Arc<[u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Arc<[u8]>, E> {
        if bytes.len() > MAX {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(Arc::from(bytes))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let announced = elements.size_hint().unwrap_or(0);
        if announced > MAX {
            return Err(A::Error::invalid_length(announced, &self));
        }
        let mut list = Vec::with_capacity(announced.min(RESERVE_MAX));
        while let Some(element) = elements.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(element);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::{Deserialize, Deserializer, Serialize};

    thread_local! {
        static DECODED: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts how many of its kind were decoded on this thread.
    #[derive(Debug, PartialEq)]
    struct Counted(u8);

    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            DECODED.set(DECODED.get() + 1);
            u8::deserialize(deserializer).map(Self)
        }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Three(#[serde(deserialize_with = "super::list::<_, _, 3>")] Vec<Counted>);

    #[derive(Serialize)]
    struct Any(Vec<u8>);

    #[test]
    fn up_to_the_limit_it_is_a_plain_list() {
        for length in 0..=3 {
            let bytes = postcard::to_allocvec(&Any(vec![7; length])).unwrap();
            let list: Three = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(list.0.len(), length);
        }
    }

    #[test]
    fn an_element_over_the_limit_is_refused_before_any_is_decoded() {
        let bytes = postcard::to_allocvec(&Any(vec![7; 4])).unwrap();
        DECODED.set(0);
        postcard::from_bytes::<Three>(&bytes).unwrap_err();
        assert_eq!(DECODED.get(), 0);
    }

    #[test]
    fn where_no_count_is_announced_it_stops_at_the_limit() {
        DECODED.set(0);
        serde_json::from_str::<Three>("[1, 2, 3, 4, 5, 6]").unwrap_err();
        assert_eq!(DECODED.get(), 4);
        assert_eq!(serde_json::from_str::<Three>("[1, 2, 3]").unwrap().0.len(), 3);
    }

    #[test]
    fn a_count_that_the_bytes_can_not_hold_is_refused() {
        // 2^32 - 1 elements announced, none there.
        postcard::from_bytes::<Three>(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err();
    }
}
