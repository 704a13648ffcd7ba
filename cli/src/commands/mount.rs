//! `snapctl mount`: a store as a read-only file system.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use sustain_inspect::{Mount, MountError, Unmounted};
use sustain_node::operations::Failure;
use sustain_store::error_chain;

use crate::args::EXIT_CODES;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::whereabouts::Choice;

/// How often it is looked whether a signal came.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Show a store's snapshots as files, read-only, until Ctrl-C
///
/// There is DIR/SERVICE/SNAPSHOT/ with a file for each region (ram, disk0, ...) and manifest.json,
/// and DIR/SERVICE/latest, a link to the newest snapshot. A former id of a snapshot, or the beginning
/// of one, works as a name too. Only what is read is decoded, and checked: damaged data is an
/// input/output error. Pushes and rebases go on meanwhile: new snapshots show within a second, and
/// open files stay readable.
///
/// Example, a file of a guest's disk:
/// mkdir m; snapctl --store ./states mount m &
/// debugfs -R 'cat /etc/hostname' m/mail/latest/disk0
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct MountArgs {
    /// An empty folder
    dir: PathBuf,

    /// Let all users of this machine read, not only the one who mounts
    #[arg(long)]
    allow_other: bool,
}

/// What is printed when it is mounted.
#[derive(Serialize)]
struct Event {
    event: &'static str,
    path: PathBuf,
    store: PathBuf,
    pid: u32,
}

pub(crate) fn run(args: &MountArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let store = choice.readable_store()?;
    let folder = store.path().to_owned();
    // From here on a signal does not end the process, so nothing stays mounted.
    let interrupt = Interrupt::watch();
    let mount = Mount::new(store, &args.dir, args.allow_other).map_err(|error| failure(&error))?;
    let path = mount.path().to_owned();
    let event = Event { event: "mounted", path: path.clone(), store: folder, pid: std::process::id() };
    output.result(&event, |event| format!("mounted on {}; Ctrl-C unmounts", event.path.display()))?;
    while !interrupt.is_set() && mount.is_alive() {
        thread::sleep(LOOK_INTERVAL);
    }
    if !mount.is_alive() {
        output.message(&format!("{} was unmounted from outside", path.display()));
        return Ok(0);
    }
    match mount.unmount().map_err(|error| failure(&error))? {
        Unmounted::Clean => output.message(&format!("unmounted {}", path.display())),
        Unmounted::Detached => output.message(&format!(
            "unmounted {}; programs that have files of it open get errors from here on",
            path.display()
        )),
    }
    Ok(0)
}

fn failure(error: &MountError) -> Failure {
    let code = match error {
        MountError::Mounted { .. } => 11,
        MountError::NoFolder { .. } | MountError::NotEmpty { .. } => 2,
        _ => 1,
    };
    let failure = Failure::new(code, error_chain(error));
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
