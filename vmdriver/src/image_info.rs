//! What a disk image given by a user is, found out without trusting it.
//!
//! An image may be hostile: a qcow2 can name other files of the host, which its guest would then read. The
//! header is read here, before any other program opens the image, and whatever names a file is refused.
//! Only then is `qemu-img` asked, with little memory, little time, and told the format.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
use crate::limits;
use crate::process::run_with_input;

/// How an image is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// The disk's bytes, one after the other.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl ImageFormat {
    /// Its name for `qemu-img`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageInfo {
    /// Its format.
    pub format: ImageFormat,
    /// Bytes of the disk that the guest sees.
    pub virtual_bytes: u64,
    /// Bytes that the file takes here.
    pub allocated_bytes: u64,
}

/// Why an image can't be a service's disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It can't be read.
    #[error("can't read the disk image {}", path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is in another format.
    #[error("the disk image {} is in the format {format}: raw and qcow2 are possible", path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// What its first bytes say.
        format: &'static str,
    },
    /// It names another file.
    #[error("the disk image {} refers to another file (a {what}): its guest would read that file", path.display())]
    Reference {
        /// The image.
        path: PathBuf,
        /// As what.
        what: &'static str,
    },
    /// It is encrypted.
    #[error("the disk image {} is encrypted, and nobody could give its key after a restore", path.display())]
    Encrypted {
        /// The image.
        path: PathBuf,
    },
    /// No disk has this size.
    #[error("the disk image {} has {bytes} bytes: it must be whole sectors of 512, and at least one", path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// What it has.
        bytes: u64,
    },
    /// `qemu-img` finds fault with it, or is not there.
    #[error("`qemu-img info` can't make sense of the disk image {}", path.display())]
    Info {
        /// The image.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl ImageError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } | Self::Info { .. } => ErrorKind::Missing,
            _ => ErrorKind::Invalid,
        }
    }
}

/// First bytes of formats that would otherwise pass for a raw disk full of nonsense.
const OTHER_FORMATS: [(&[u8], &str); 7] = [
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"# Disk DescriptorFile", "vmdk"),
    (b"conectix", "vpc"),
    (b"vhdxfile", "vhdx"),
    (b"<<< ", "vdi"),
    (b"QED\0", "qed"),
];

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";

/// What `qemu-img` is told to open: its standard input, so that no name is looked up again, as qcow2, and
/// without whatever the header says that lies below it.
pub(crate) const QCOW2_ON_STDIN: &str =
    r#"json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"/proc/self/fd/0"}}"#;

/// Looks at an image.
///
/// # Errors
/// If it can't be read, is in another format, or refers to other files.
pub fn inspect_image(path: &Path) -> Result<ImageInfo, ImageError> {
    let file = open_image(path)?;
    inspect_open(&file, path)
}

/// Opens an image to read it.
pub(crate) fn open_image(path: &Path) -> Result<File, ImageError> {
    // Opening a pipe without a writer must not wait for one.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map(File::from).map_err(|error| ImageError::Read { path: path.to_owned(), source: error.into() })
}

/// Looks at an image that is open already, so that what is used is what was looked at. The path is for messages.
pub(crate) fn inspect_open(file: &File, path: &Path) -> Result<ImageInfo, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file")));
    }
    let mut header = [0; 112];
    let length = read_up_to(file, &mut header).map_err(failed)?;
    let allocated_bytes = metadata.blocks().saturating_mul(512);
    let format = check_header(&header[..length], path)?;
    let virtual_bytes = match format {
        ImageFormat::Raw => metadata.len(),
        ImageFormat::Qcow2 => ask_qemu_img(file, path)?,
    };
    if virtual_bytes == 0 || virtual_bytes % 512 != 0 {
        return Err(ImageError::Size { path: path.to_owned(), bytes: virtual_bytes });
    }
    Ok(ImageInfo { format, virtual_bytes, allocated_bytes })
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], length as u64)? {
            0 => break,
            bytes => length += bytes,
        }
    }
    Ok(length)
}

/// Reads what decides of a header. For qcow2: `docs/interop/qcow2.txt` of QEMU.
pub(crate) fn check_header(header: &[u8], path: &Path) -> Result<ImageFormat, ImageError> {
    if let Some((_, format)) = OTHER_FORMATS.iter().find(|(magic, _)| header.starts_with(magic)) {
        return Err(ImageError::Format { path: path.to_owned(), format });
    }
    if !header.starts_with(QCOW2_MAGIC) {
        return Ok(ImageFormat::Raw);
    }
    let number = |at: usize, bytes: usize| {
        header
            .get(at..at + bytes)
            .map(|field| field.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte)))
    };
    let refused = |what| ImageError::Reference { path: path.to_owned(), what };
    let version = number(4, 4).unwrap_or(0);
    if !(2..=3).contains(&version) {
        return Err(ImageError::Format { path: path.to_owned(), format: "qcow2 of an unknown version" });
    }
    // A header that is cut off is left to qemu-img to refuse.
    if number(8, 8).unwrap_or(0) != 0 {
        return Err(refused("backing file"));
    }
    let features = if version == 3 { number(72, 8).unwrap_or(0) } else { 0 };
    if features & 1 << 2 != 0 {
        return Err(refused("data file"));
    }
    if number(32, 4).unwrap_or(0) != 0 {
        return Err(ImageError::Encrypted { path: path.to_owned() });
    }
    Ok(ImageFormat::Qcow2)
}

/// What is of interest in the answer of `qemu-img info`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    virtual_size: u64,
    #[serde(default)]
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
}

fn ask_qemu_img(file: &File, path: &Path) -> Result<u64, ImageError> {
    let failed = |source| ImageError::Info { path: path.to_owned(), source };
    let mut line: Vec<OsString> = vec!["prlimit".into()];
    line.push(format!("--as={}", limits::IMAGE_INFO_BYTES_MAX).into());
    line.push(format!("--cpu={}", limits::IMAGE_INFO_TIMEOUT.as_secs()).into());
    line.extend(["qemu-img", "info", "--force-share", "--output=json", QCOW2_ON_STDIN].map(OsString::from));
    let input = file.try_clone().map_err(failed)?;
    let said = run_with_input(&line, input, limits::IMAGE_INFO_TIMEOUT).map_err(failed)?;
    let answer: Answer = serde_json::from_str(&said).map_err(|error| failed(io::Error::other(error)))?;
    if answer.backing_filename.is_some() {
        return Err(ImageError::Reference { path: path.to_owned(), what: "backing file" });
    }
    if answer.encrypted {
        return Err(ImageError::Encrypted { path: path.to_owned() });
    }
    Ok(answer.virtual_size)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn qemu_img(arguments: &[&str]) {
        assert!(
            Command::new("qemu-img")
                .args(arguments)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap()
                .success()
        );
    }

    #[test]
    fn good_images_are_told_apart_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        qemu_img(&["create", "-q", "-f", "qcow2", &path("a.qcow2"), "64M"]);
        let found = inspect_image(Path::new(&path("a.qcow2"))).unwrap();
        assert_eq!((found.format, found.virtual_bytes), (ImageFormat::Qcow2, 64 << 20));
        assert!(found.allocated_bytes < 1 << 20);
        // With a comma and a colon: neither an option nor a protocol.
        File::create(path("nbd:a,b=c.raw")).unwrap().set_len(3 << 20).unwrap();
        let found = inspect_image(Path::new(&path("nbd:a,b=c.raw"))).unwrap();
        assert_eq!((found.format, found.virtual_bytes), (ImageFormat::Raw, 3 << 20));
        fs::rename(path("a.qcow2"), path("nbd:a,b=c.raw")).unwrap();
        inspect_image(Path::new(&path("nbd:a,b=c.raw"))).unwrap();
    }

    #[test]
    fn an_image_that_names_other_files_is_refused_before_anything_opens_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        qemu_img(&["create", "-q", "-f", "raw", &path("base"), "1M"]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", &path("base"), "-F", "raw", &path("backed")]);
        // So that opening it would fail, and the refusal is not qemu-img's.
        fs::remove_file(path("base")).unwrap();
        let error = inspect_image(Path::new(&path("backed"))).unwrap_err();
        assert!(matches!(error, ImageError::Reference { what: "backing file", .. }), "{error}");
        let option = format!("data_file={}", path("data"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, &path("split"), "1M"]);
        let error = inspect_image(Path::new(&path("split"))).unwrap_err();
        assert!(matches!(error, ImageError::Reference { what: "data file", .. }), "{error}");
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let refusal = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            inspect_image(&path).unwrap_err().to_string()
        };
        assert!(refusal(b"").contains("has 0 bytes"));
        assert!(refusal(b"hello").contains("has 5 bytes"));
        assert!(refusal(b"KDMV and so on").contains("format vmdk"));
        assert!(refusal(b"QFI\xfb").contains("unknown version"));
        assert!(refusal(b"QFI\xfb\0\0\0\x03").contains("qemu-img"));
        assert!(inspect_image(folder.path()).is_err());
        assert!(
            inspect_image(Path::new("/nowhere/image")).unwrap_err().to_string().contains("/nowhere/image")
        );
        // A sound header with lengths that would take all memory.
        let mut header = b"QFI\xfb\0\0\0\x02".to_vec();
        header.resize(20, 0);
        header.extend([0, 0, 0, 21]);
        header.extend([0x7f; 80]);
        header[32..36].fill(0);
        assert!(refusal(&header).contains("qemu-img"));
    }
}
