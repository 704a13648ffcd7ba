//! Packs between a store and a stream: a thread reads or writes the disk, a task the network, and a few
//! buffers travel between them.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use sustain_store::PackReader;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::limits;
use crate::share::Uplink;
use crate::tasks::Tasks;

/// Why something can't be read here.
pub(crate) type ReadFailure = Box<dyn Error + Send + Sync>;

/// Fills a buffer from an offset.
pub(crate) type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), ReadFailure> + 'a;

/// What is read, part by part.
pub(crate) type Filled = Result<Vec<u8>, ReadFailure>;

/// Why a pack didn't travel whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PumpError {
    /// The stream broke.
    #[error("the transfer broke off: {0}")]
    Stream(String),
    /// Nothing moved for too long.
    #[error("the transfer stalled")]
    Stalled,
    /// This node's store can't give it.
    #[error("the pack can't be read here")]
    Read(#[source] ReadFailure),
}

/// Sends a part of a pack, which must not end past the pack.
pub(crate) async fn send(
    (tasks, uplink): (&Tasks, &Uplink),
    reader: PackReader,
    part: Range<u64>,
    stream: &mut SendStream,
    stall: Duration,
) -> Result<(), PumpError> {
    let (buffers, mut filled) = mpsc::channel::<Filled>(limits::PACK_BUFFERS);
    // Ends by itself when this future is dropped: then nobody takes the buffers.
    let read = move |at: u64, buffer: &mut [u8]| Ok(reader.read_at(at, buffer)?);
    drop(tasks.blocking(move || read_all(&read, part, &buffers)));
    write_filled((stream, uplink), &mut filled, stall).await
}

/// Sends what comes in buffers.
pub(crate) async fn write_filled(
    (stream, uplink): (&mut SendStream, &Uplink),
    filled: &mut mpsc::Receiver<Filled>,
    stall: Duration,
) -> Result<(), PumpError> {
    while let Some(buffer) = filled.recv().await {
        write_all((stream, uplink), &buffer.map_err(PumpError::Read)?, stall).await?;
    }
    Ok(())
}

/// Sends bytes. A slow link is no stall as long as it takes anything.
pub(crate) async fn write_all(
    (stream, uplink): (&mut SendStream, &Uplink),
    bytes: &[u8],
    stall: Duration,
) -> Result<(), PumpError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let part = uplink.part(rest.len());
        uplink.pass(part).await;
        match timeout(stall, stream.write(&rest[..part])).await {
            Ok(Ok(bytes)) => rest = &rest[bytes..],
            Ok(Err(error)) => return Err(PumpError::Stream(error.to_string())),
            Err(_) => return Err(PumpError::Stalled),
        }
    }
    Ok(())
}

/// Reads a part of something into buffers. False if that failed, or nobody takes them any more.
pub(crate) fn read_all(reader: &ReadAt<'_>, part: Range<u64>, buffers: &mpsc::Sender<Filled>) -> bool {
    let mut offset = part.start;
    while offset < part.end {
        let left = usize::try_from(part.end - offset).unwrap_or(usize::MAX);
        let mut buffer = vec![0_u8; left.min(limits::PACK_BUFFER_BYTES)];
        let read = reader(offset, &mut buffer);
        offset += buffer.len() as u64;
        let failed = read.is_err();
        if buffers.blocking_send(read.map(|()| buffer)).is_err() || failed {
            return false;
        }
    }
    true
}

/// Reads until the buffer has so many bytes, or nothing more comes.
pub(crate) async fn fill(
    stream: &mut RecvStream,
    room: usize,
    stall: Duration,
) -> (Vec<u8>, Result<(), PumpError>) {
    let mut buffer = vec![0_u8; room];
    let mut filled = 0;
    let mut end = Ok(());
    while filled < room {
        let read = match timeout(stall, stream.read(&mut buffer[filled..])).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => Err(PumpError::Stream("the peer ended it early".to_owned())),
            Ok(Err(error)) => Err(PumpError::Stream(error.to_string())),
            Err(_) => Err(PumpError::Stalled),
        };
        match read {
            Ok(bytes) => filled += bytes,
            Err(error) => {
                end = Err(error);
                break;
            }
        }
    }
    buffer.truncate(filled);
    (buffer, end)
}
