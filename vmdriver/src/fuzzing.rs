//! The parsers of what clients of a disk and images' headers say, as fuzzing calls them: bytes in, nothing out, no
//! panic. No interface for others.

/// An NBD client's bytes, from its flags on.
pub fn nbd(bytes: &[u8]) {
    crate::disk::fuzz_nbd(bytes);
}

/// The beginning of an image.
pub fn image_header(bytes: &[u8]) {
    let header = &bytes[..bytes.len().min(112)];
    let _ = crate::image_info::check_header(header, std::path::Path::new("image"));
}
