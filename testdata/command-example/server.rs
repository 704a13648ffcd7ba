//! The example of a plain process that is sustained without a VM: a counter whose state is files in a folder.
//!
//! One file, the standard library only: `build` compiles it with plain `rustc`.
//!
//! ```text
//! server LISTEN STATE       serves
//! server --ask LISTEN       asks a server, and fails if there is no answer
//!
//! GET /count                counts one up         {"count":6,"boot_id":"…"}
//! GET /peek                 only looks
//! ```

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A client must have sent its request after this, and must take the answer in this time.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of a request.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--ask", address] => ask(address),
        [address, state] => serve(address, Path::new(state)),
        _ => Err(io::Error::other("usage: server LISTEN STATE | server --ask LISTEN")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.write_all(b"GET /peek HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.0 200") { Ok(()) } else { Err(io::Error::other("no good answer")) }
}

/// One client at a time: whatever state a stop finds it in, the files are whole.
fn serve(address: &str, folder: &Path) -> io::Result<()> {
    let mut state = State::open(folder)?;
    let listener = TcpListener::bind(address)?;
    eprintln!("server: {} at {address}, from {}", state.boot_id, state.count);
    for client in listener.incoming() {
        if let Err(error) = client.and_then(|client| answer(client, &mut state)) {
            eprintln!("server: a client: {error}");
        }
    }
    Ok(())
}

struct State {
    folder: PathBuf,
    count: u64,
    /// Made when the state was: a client can tell a state that goes on from a new one.
    boot_id: String,
}

impl State {
    fn open(folder: &Path) -> io::Result<Self> {
        let id = folder.join("boot_id");
        if !id.exists() {
            write(&id, fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim())?;
            write(&folder.join("count"), "0")?;
        }
        let count = fs::read_to_string(folder.join("count"))?.trim().parse().map_err(io::Error::other)?;
        Ok(Self { folder: folder.to_owned(), count, boot_id: fs::read_to_string(id)? })
    }
}

/// All or nothing, as a service has to write if a stop may come at any moment.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

fn answer(mut client: TcpStream, state: &mut State) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = Vec::new();
    let mut buffer = [0_u8; 1_024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            bytes => request.extend_from_slice(&buffer[..bytes]),
        }
    }
    let (status, body) = if request.starts_with(b"GET /count ") {
        state.count += 1;
        write(&state.folder.join("count"), &state.count.to_string())?;
        ("200 OK", format!("{{\"count\":{},\"boot_id\":\"{}\"}}", state.count, state.boot_id))
    } else if request.starts_with(b"GET /peek ") {
        ("200 OK", format!("{{\"count\":{},\"boot_id\":\"{}\"}}", state.count, state.boot_id))
    } else {
        ("404 Not Found", "{}".to_owned())
    };
    let bytes = body.len();
    write!(client, "HTTP/1.0 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n{body}")
}
