//! Compiles the library that is preloaded into QEMU, so that it can be kept inside the binary: whoever
//! installs `snapctl` installs one file.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let sources = Path::new("../preload/src");
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-changed=build.rs");
    let output = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("libsustain_preload.so");
    let mut rustc = Command::new(env::var_os("RUSTC").ok_or("no RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-name", "sustain_preload", "--crate-type", "cdylib"]);
    rustc.args(["-O", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.arg("--target").arg(env::var_os("TARGET").ok_or("no TARGET")?);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    rustc.arg("-o").arg(&output).arg(sources.join("lib.rs"));
    let status = rustc.status().map_err(|error| format!("can't run rustc: {error}"))?;
    if !status.success() {
        return Err(format!("rustc can't compile preload/src/lib.rs: {status}").into());
    }
    Ok(())
}
