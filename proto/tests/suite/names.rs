//! Names are safe in paths and command lines, whoever made them up.

use proptest::prelude::*;

use sustain_proto::{NameError, RegionName, ServiceName, limits};

proptest! {
    #[test]
    fn a_name_is_taken_exactly_if_it_needs_no_quoting(text in "[a-z0-9_A-Z./ é-]{0,70}") {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let expected = text.chars().next().is_some_and(plain)
            && text.chars().all(|c| plain(c) || c == '-' || c == '_')
            && text.len() <= limits::SERVICE_NAME_BYTES_MAX;
        let name = ServiceName::new(text.clone());
        prop_assert_eq!(name.is_ok(), expected);
        if let Ok(name) = name {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert_eq!(&name.to_string(), &text);
            prop_assert_eq!(text.parse::<ServiceName>().unwrap(), name);
        }
    }

    #[test]
    fn any_text_at_all(text in any::<String>()) {
        let _ = RegionName::new(text);
    }
}

#[test]
fn the_reason_is_named() {
    let reason = |text: &str| RegionName::new(text).unwrap_err();
    assert_eq!(reason(""), NameError::Empty);
    assert_eq!(reason(&"r".repeat(33)), NameError::Long { bytes_max: 32, bytes: 33 });
    for (text, character) in
        [("-a", '-'), ("_a", '_'), ("a/b", '/'), ("..", '.'), ("Ram", 'R'), ("a\0", '\0')]
    {
        assert_eq!(reason(text), NameError::Character { character }, "{text:?}");
    }
    assert!(RegionName::new("r".repeat(32)).is_ok());
}

#[test]
fn decoding_checks_names_too() {
    assert!(serde_json::from_str::<ServiceName>("\"mail\"").is_ok());
    assert!(serde_json::from_str::<ServiceName>("\"../mail\"").is_err());
    // In postcard a text is its length and its bytes.
    assert!(postcard::from_bytes::<ServiceName>(b"\x04mail").is_ok());
    assert!(postcard::from_bytes::<ServiceName>(b"\x04ma/l").is_err());
}
