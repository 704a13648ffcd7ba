//! Whether a file is a kernel that a virtual machine can boot.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where an x86 kernel's image has its magic number: `Documentation/arch/x86/boot.rst` of Linux, `header`.
const MAGIC_AT: u64 = 0x202;
const MAGIC: &[u8; 4] = b"HdrS";

/// A kernel before it was made an image of, which QEMU boots too if it has an entry for that.
const ELF_MAGIC: &[u8; 4] = b"\x7fELF";

/// What keeps the file from being a kernel. A file that can't be read is for others to tell.
pub(super) fn look_at_kernel(path: &Path) -> Option<String> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|found| found.is_file()))?;
    let has = |magic: &[u8; 4], at: u64| {
        let mut found = [0; 4];
        file.read_exact_at(&mut found, at).is_ok() && found == *magic
    };
    if has(MAGIC, MAGIC_AT) || has(ELF_MAGIC, 0) {
        return None;
    }
    Some(format!("{} is no Linux kernel for x86 (there is no `HdrS` at 0x202)", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty file and a text were once good enough for `service check`.
    #[test]
    fn a_kernel_is_told_from_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        let look = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            look_at_kernel(&path)
        };
        assert!(look(b"").unwrap().contains("no Linux kernel"));
        assert!(look(&[b'x'; 4_096]).is_some());
        let mut image = vec![0; 0x206];
        image[0x202..].copy_from_slice(b"HdrS");
        assert_eq!(look(&image), None);
        assert!(look(&image[..0x205]).is_some(), "cut off");
        assert_eq!(look(b"\x7fELF and so on"), None);
        assert_eq!(look_at_kernel(Path::new("/nowhere/vmlinuz")), None, "others say that it is missing");
    }
}
