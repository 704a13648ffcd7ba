//! Sizes as arguments: `4096`, `64KiB`, and as QEMU's users write them, `512M`.

use sustain_node::config::Bytes;

/// A size whose unit may be a single letter, with the unit in full: 512M is 512MiB.
pub(crate) fn with_unit(text: &str) -> String {
    if text.ends_with(['K', 'M', 'G', 'T']) { format!("{text}iB") } else { text.to_owned() }
}

/// A number of bytes, with or without a unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    if let Ok(bytes) = text.parse::<u64>() {
        return Ok(bytes);
    }
    let bytes: Bytes =
        with_unit(text).parse().map_err(|_| "it must be a size like 4096, 64KiB or 2G".to_owned())?;
    Ok(bytes.get())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn bytes_need_no_unit() {
        for (text, bytes) in
            [("0", 0), ("4096", 4_096), ("64KiB", 65_536), ("512M", 512 << 20), ("1TiB", 1 << 40)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1.5", "16777216T", "5 MiB!"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
