//! Other programs that bring the same state here: scp and rsync through sshd on loopback, and sendme.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::run::{Running, output};
use crate::{Options, Outcome};

/// How long a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);

/// The other programs, as far as they can be had.
pub(crate) struct Others {
    sshd: Option<Sshd>,
    sendme: Option<Sendme>,
}

impl Others {
    /// Starts what serves. One that can't be had or does not work is left out, with the reason.
    pub(crate) fn start(options: &Options, scratch: &Path, state: &Path) -> Self {
        let sshd = Sshd::start(&scratch.join("ssh"));
        let sendme = Sendme::start(options, scratch, state);
        Self {
            sshd: sshd.map_err(|error| println!("skipped: scp and rsync: {error}")).ok(),
            sendme: sendme.map_err(|error| println!("skipped: sendme: {error}")).ok(),
        }
    }

    /// What each takes once.
    pub(crate) fn round(&self, state: &Path, mut took: impl FnMut(&'static str, Duration)) {
        let mut note = |name, measured: Outcome<Duration>| match measured {
            Ok(time) => took(name, time),
            Err(error) => println!("skipped: {name}: {error}"),
        };
        if let Some(sshd) = &self.sshd {
            note("scp", sshd.get(state, &Sshd::scp));
            note("rsync", sshd.get(state, &Sshd::rsync));
        }
        if let Some(sendme) = &self.sendme {
            note("sendme", sendme.get(state));
        }
    }
}

/// An sshd of our own, with a key that is made for it.
struct Sshd {
    folder: PathBuf,
    port: String,
    _running: Running,
}

impl Sshd {
    fn start(folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder)?;
        for name in ["host", "user"] {
            let key = folder.join(name);
            output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key))?;
        }
        fs::copy(folder.join("user.pub"), folder.join("authorized"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let place = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
             Subsystem sftp internal-sftp\n",
            place("host"),
            place("authorized")
        );
        fs::write(folder.join("config"), config)?;
        // Where it drops its rights; part of the package's own start.
        let _ = fs::create_dir_all("/run/sshd");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(folder.join("config"));
        let running = Running::start(&mut command, &folder.join("log"))?;
        let sshd = Self { folder: folder.to_owned(), port, _running: running };
        let until = Instant::now() + PATIENCE;
        while output(Command::new("ssh").args(sshd.options()).args(["127.0.0.1", "true"])).is_err() {
            if Instant::now() > until {
                return Err(fs::read_to_string(folder.join("log"))?.into());
            }
            sleep(Duration::from_millis(100));
        }
        Ok(sshd)
    }

    fn options(&self) -> Vec<String> {
        let key = self.folder.join("user").display().to_string();
        let known = format!("UserKnownHostsFile={}", self.folder.join("known").display());
        let port = format!("Port={}", self.port);
        ["-q", "-i", &key, "-o", &known, "-o", "StrictHostKeyChecking=no", "-o", &port]
            .map(str::to_owned)
            .into()
    }

    fn get(&self, state: &Path, run: &dyn Fn(&Self, &Path, &Path) -> Outcome<String>) -> Outcome<Duration> {
        let to = self.folder.join("got");
        let started = Instant::now();
        run(self, state, &to)?;
        let took = started.elapsed();
        let same = fs::metadata(&to)?.len() == fs::metadata(state)?.len();
        fs::remove_file(&to)?;
        if same { Ok(took) } else { Err("the file came short".into()) }
    }

    fn scp(&self, state: &Path, to: &Path) -> Outcome<String> {
        let from = format!("127.0.0.1:{}", state.display());
        output(Command::new("scp").args(self.options()).arg(from).arg(to))
    }

    fn rsync(&self, state: &Path, to: &Path) -> Outcome<String> {
        let from = format!("127.0.0.1:{}", state.display());
        let shell = format!("ssh {}", self.options().join(" "));
        output(Command::new("rsync").args(["--whole-file", "-e", &shell]).arg(from).arg(to))
    }
}

/// A sender of the state.
struct Sendme {
    program: PathBuf,
    ticket: String,
    folder: PathBuf,
    _running: Running,
}

impl Sendme {
    fn start(options: &Options, scratch: &Path, state: &Path) -> Outcome<Self> {
        if !options.sendme.exists() {
            return Err(format!("{} is not there", options.sendme.display()).into());
        }
        let program = fs::canonicalize(&options.sendme)?;
        let folder = scratch.join("sendme");
        let sender = folder.join("sender");
        fs::create_dir_all(&sender)?;
        let log = folder.join("log");
        let alone = ["--no-progress", "--relay", "disabled", "--ticket-type", "addresses"];
        let mut command = Command::new(&program);
        command.arg("send").args(alone).arg(state).current_dir(&sender);
        let running = Running::start(&mut command, &log)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let said = fs::read_to_string(&log)?;
            if let Some(ticket) = said.split_whitespace().find(|word| word.starts_with("blob")) {
                let ticket = ticket.to_owned();
                return Ok(Self { program, ticket, folder, _running: running });
            }
            if Instant::now() > until {
                return Err(format!("it gives no ticket: {said}").into());
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn get(&self, state: &Path) -> Outcome<Duration> {
        let receiver = self.folder.join("receiver");
        let _ = fs::remove_dir_all(&receiver);
        fs::create_dir_all(&receiver)?;
        let started = Instant::now();
        let mut command = Command::new(&self.program);
        command
            .args(["receive", "--no-progress", "--relay", "disabled", &self.ticket])
            .current_dir(&receiver);
        output(&mut command)?;
        let took = started.elapsed();
        let name = state.file_name().ok_or("the state has no name")?;
        let same = fs::metadata(receiver.join(name))?.len() == fs::metadata(state)?.len();
        fs::remove_dir_all(&receiver)?;
        if same { Ok(took) } else { Err("the file came short".into()) }
    }
}
