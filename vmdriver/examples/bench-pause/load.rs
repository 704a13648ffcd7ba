//! The mail guest and what loads it: postal, as in the paper.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sustain_proto::ServiceName;
use sustain_vmdriver::{DiskSpec, PortForward, Vm, VmSpec};

use crate::Outcome;

/// With one it reaches a third of the paper's load under emulation.
pub(crate) const CPUS: u32 = 2;
/// The guest boots within 25 to 50 s under emulation.
const BOOT_TIMEOUT: Duration = Duration::from_secs(240);
/// For each try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The mail guest, its ports forwarded.
pub(crate) fn spec(guest: &Path, memory_mib: u64) -> Outcome<VmSpec> {
    let mut spec = VmSpec::new(ServiceName::new("bench-mail")?, guest.join("vmlinuz"));
    spec.initramfs = Some(guest.join("initramfs.cpio.gz"));
    spec.memory_bytes = memory_mib << 20;
    spec.cpus = CPUS;
    spec.disk = Some(DiskSpec { image: guest.join("disk.raw") });
    for guest_port in [25, 143] {
        spec.forwards.push(PortForward { host: "127.0.0.1:0".parse()?, guest_port });
    }
    Ok(spec)
}

/// Where the guest's port is to be had.
pub(crate) fn port(vm: &dyn Vm, guest_port: u16) -> Outcome<SocketAddr> {
    let found = vm.forwards().iter().find(|forward| forward.guest_port == guest_port);
    Ok(found.ok_or("the VM forwards no such port")?.host)
}

/// The program that serves disks, beside this one's folder.
pub(crate) fn disk_server() -> Outcome<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().nth(2).ok_or("this program has no folder")?;
    let server = folder.join("sustain-disk-server");
    if server.exists() { Ok(server) } else { Err(format!("{} is missing", server.display()).into()) }
}

/// postal at work; dropping it ends it.
pub(crate) struct Load {
    process: Child,
    /// What it says, a line a minute.
    pub(crate) log: PathBuf,
}

impl Load {
    /// Sends so many mails a minute from now on.
    pub(crate) fn start(smtp: SocketAddr, rate: u32, scratch: &Path) -> Outcome<Self> {
        std::fs::write(scratch.join("users"), "user1@mail.test\nuser2@mail.test\n")?;
        let log = scratch.join("postal.out");
        // As in the paper: mails of up to 10 KB of random text.
        let mut command = Command::new("postal");
        command.args(["-m", "10", "-t", "5", "-c", "3", "-r", &rate.to_string()]);
        command.arg(format!("[{}]{}", smtp.ip(), smtp.port())).arg("users");
        // It leaves a log of its own where it runs.
        command.current_dir(scratch);
        command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(Stdio::null());
        let process = command.spawn().map_err(|error| format!("postal: {error}: apt-get install postal"))?;
        Ok(Self { process, log })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One line.
pub(crate) fn hear(lines: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    match lines.read_line(&mut line)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

fn listen(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    Ok(stream)
}

/// Waits until the mail server greets.
pub(crate) fn wait_for_banner(smtp: SocketAddr) -> Outcome<()> {
    let deadline = Instant::now() + BOOT_TIMEOUT;
    while Instant::now() < deadline {
        let line = TcpStream::connect_timeout(&smtp, CONNECT_TIMEOUT)
            .and_then(listen)
            .and_then(|stream| hear(&mut BufReader::new(stream)));
        if line.is_ok_and(|line| line.starts_with("220 ")) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("the mail server does not come up".into())
}
