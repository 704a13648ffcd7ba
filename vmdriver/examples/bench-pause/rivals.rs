//! QEMU's own ways to take a snapshot, on a QEMU of the same machine: `savevm` into a qcow2 image, and stopping,
//! migrating to a file, and going on.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sustain_vmdriver::VmSpec;

use crate::Outcome;

/// A QEMU whose guest lives as ours does, but for its memory, which is QEMU's own as usual.
pub(crate) struct Rival {
    child: Child,
    reader: BufReader<UnixStream>,
    folder: PathBuf,
    /// Where its guest answers.
    pub(crate) address: SocketAddr,
    /// STOP and RESUME, by QEMU's clock in ms.
    events: Vec<(String, f64)>,
}

impl Rival {
    pub(crate) fn start(spec: &VmSpec, qemu: &Path, folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder)?;
        let image = folder.join("state.qcow2");
        let status =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("64M").status()?;
        if !status.success() {
            return Err("qemu-img can't create an image".into());
        }
        let socket = folder.join("qmp");
        let listener = UnixListener::bind(&socket)?;
        // Free a moment ago; nobody else is in a hurry to take it.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(qemu);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-accel",
            "tcg,thread=multi,tb-size=128",
        ]);
        command
            .args(["-machine", &spec.machine, "-cpu", &spec.cpu, "-m"])
            .arg(format!("{}M", spec.memory_bytes >> 20));
        command.arg("-kernel").arg(spec.kernel.as_ref().ok_or("no kernel")?);
        command.arg("-initrd").arg(spec.initramfs.as_ref().ok_or("no initramfs")?);
        command.args(["-append", &spec.kernel_args, "-serial", "null"]);
        command.arg("-netdev").arg(format!("user,id=net0,restrict=on,hostfwd=tcp:{address}-10.0.2.15:8080"));
        command.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        command.arg("-drive").arg(format!("if=none,id=state,format=qcow2,file={}", image.display()));
        command.arg("-qmp").arg(format!("unix:{}", socket.display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let reader = BufReader::new(listener.accept()?.0);
        let mut rival = Self { child, reader, folder: folder.to_owned(), address, events: Vec::new() };
        rival.execute("qmp_capabilities", &json!({}))?;
        Ok(rival)
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Outcome<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(format!("QEMU ended at {command}").into());
            }
            let message: Value = serde_json::from_str(&line)?;
            if let Some(event) = message["event"].as_str() {
                let part = |name: &str| message["timestamp"][name].as_f64().unwrap_or(0.0);
                self.events.push((event.to_owned(), part("seconds") * 1e3 + part("microseconds") / 1e3));
            } else if let Some(error) = message.get("error") {
                return Err(format!("{command}: {error}").into());
            } else if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// The last pause, from its STOP to its RESUME.
    fn pause_ms(&mut self) -> Outcome<f64> {
        // An answer more, so that the event has come.
        self.execute("query-status", &json!({}))?;
        let last = |events: &[(String, f64)], name: &str| {
            events.iter().rev().find(|(event, _)| event == name).map(|(_, at)| *at)
        };
        let (stop, resume) = (last(&self.events, "STOP"), last(&self.events, "RESUME"));
        Ok(resume.ok_or("no RESUME")? - stop.ok_or("no STOP")?)
    }

    /// One pause by `savevm`.
    pub(crate) fn savevm_ms(&mut self) -> Outcome<f64> {
        self.execute("human-monitor-command", &json!({ "command-line": "savevm one" }))?;
        let pause = self.pause_ms()?;
        self.execute("human-monitor-command", &json!({ "command-line": "delvm one" }))?;
        Ok(pause)
    }

    /// One pause by stopping, migrating to a file, and going on: with QEMU's own limit of 128 MiB a second, or with
    /// none but the disk's.
    pub(crate) fn migrate_ms(&mut self, limit: bool) -> Outcome<f64> {
        let file = self.folder.join("migrated");
        let bandwidth: u64 = if limit { 128 << 20 } else { 1 << 40 };
        self.execute("migrate-set-parameters", &json!({ "max-bandwidth": bandwidth }))?;
        self.execute("stop", &json!({}))?;
        self.execute("migrate", &json!({ "uri": format!("exec:cat > {}", file.display()) }))?;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let status = self.execute("query-migrate", &json!({}))?;
            match status["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => return Err(format!("the migration failed: {status}").into()),
                _ if Instant::now() > deadline => return Err("the migration does not end".into()),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        self.execute("cont", &json!({}))?;
        let pause = self.pause_ms()?;
        fs::remove_file(&file)?;
        Ok(pause)
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
