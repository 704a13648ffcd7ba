//! The disk's process by itself, for tests: the same as `snapctl disk-server FOLDER`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else { return ExitCode::from(2) };
    match sustain_vmdriver::disk::serve(folder.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{}", sustain_store::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}
