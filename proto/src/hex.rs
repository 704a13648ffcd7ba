//! Ids as lower-case hexadecimal text.

/// Why a text is not the hexadecimal form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// The text has another length than an id's.
    #[error("an id has {expected} hexadecimal digits, this text has {found}")]
    Length {
        /// Digits that an id has.
        expected: usize,
        /// Bytes that the text has.
        found: usize,
    },
    /// A character that is no lower-case hexadecimal digit.
    #[error("character {position} is not one of 0-9 and a-f")]
    Digit {
        /// Where in the text, from 0.
        position: usize,
    },
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

pub(crate) fn decode<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    if text.len() != N * 2 {
        return Err(HexError::Length { expected: N * 2, found: text.len() });
    }
    let mut bytes = [0_u8; N];
    for (position, digit) in text.bytes().enumerate() {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return Err(HexError::Digit { position }),
        };
        bytes[position / 2] = bytes[position / 2] << 4 | value;
    }
    Ok(bytes)
}

/// The bytes of a text of hexadecimal digits, at most so many; none if it is no such text.
pub(crate) fn decode_all(text: &str, bytes_max: usize) -> Option<Vec<u8>> {
    if text.len() > bytes_max * 2 || text.len() % 2 != 0 || !text.is_ascii() {
        return None;
    }
    let pairs = text.as_bytes().chunks_exact(2).map(std::str::from_utf8);
    pairs.map(|pair| decode::<1>(pair.ok()?).ok().map(|[byte]| byte)).collect()
}
