//! Answers the disk's process, in the node's.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::limits::{BLOCK_CONNECTIONS_MAX, BLOCK_WRITE_TIMEOUT};

use super::{BlockSource, ChunkContent, Unavailable, chunk_bytes, wire};

/// A socket at which a block source answers. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Server {
    socket: PathBuf,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to answer. A socket left behind by an earlier one is replaced.
    pub(crate) fn start(socket: &Path, source: Arc<dyn BlockSource>) -> io::Result<Self> {
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::Builder::new().name("disk-blocks".into()).spawn(move || {
            accept(&listener, &source, &stop);
        })?;
        Ok(Self { socket: socket.to_owned(), stopping, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let woken = UnixStream::connect(&self.socket).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn accept(listener: &UnixListener, source: &Arc<dyn BlockSource>, stop: &Arc<AtomicBool>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // No descriptor left, say: not a reason to spin.
            std::thread::sleep(crate::limits::POLL_INTERVAL);
            continue;
        };
        if open.fetch_add(1, Ordering::SeqCst) >= BLOCK_CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (source, count, stop) = (Arc::clone(source), Arc::clone(&open), Arc::clone(stop));
        let thread = std::thread::Builder::new().name("disk-blocks".into()).spawn(move || {
            // However it ends, the other side connects again if it wants more.
            let _ = serve(stream, &*source, &stop);
            count.fetch_sub(1, Ordering::SeqCst);
        });
        if thread.is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(mut stream: UnixStream, source: &dyn BlockSource, stop: &AtomicBool) -> io::Result<()> {
    stream.set_write_timeout(Some(BLOCK_WRITE_TIMEOUT))?;
    let mut hello = [0; wire::HELLO.len()];
    stream.read_exact(&mut hello)?;
    stream.write_all(&wire::HELLO)?;
    if hello != wire::HELLO {
        return Ok(());
    }
    let mut buffer = vec![0; sustain_proto::limits::CHUNK_BYTES];
    while !stop.load(Ordering::SeqCst) {
        let mut request = [0; wire::REQUEST_BYTES];
        stream.read_exact(&mut request)?;
        let wire::Request { chunk, prefetch } = wire::Request::decode(request);
        let (result, bytes) = match chunk_bytes(chunk, source.bytes()) {
            Some(bytes) if prefetch => (source.prefetch_chunk(chunk, &mut buffer[..bytes]), bytes),
            Some(bytes) => (source.read_chunk(chunk, &mut buffer[..bytes]).map(Some), bytes),
            None => (Err(Unavailable::new("the disk has no such chunk")), 0),
        };
        // Zeros are not sent, whoever found them.
        let result = result.map(|content| match content {
            Some(ChunkContent::Data) if buffer[..bytes].iter().all(|byte| *byte == 0) => {
                Some(ChunkContent::Zero)
            }
            content => content,
        });
        stream.write_all(&wire::reply(result, &buffer[..bytes]))?;
    }
    Ok(())
}
