//! Frames on QUIC streams.

use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sustain_proto::{FRAME_HEADER_BYTES, FrameError, FrameHeader, decode_frame, encode_frame};

/// Why no frame could be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The stream or its connection broke.
    #[error("the stream ended within a frame")]
    Read(#[from] ReadExactError),
    /// The peer takes no more.
    #[error("the stream takes no more")]
    Write(#[from] WriteError),
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads one frame; its length is checked before memory is set aside for it.
pub(crate) async fn read<T: DeserializeOwned>(
    stream: &mut RecvStream,
    bytes_max: usize,
) -> Result<T, StreamError> {
    let mut header = [0_u8; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = FrameHeader::decode(&header, bytes_max)?;
    let mut body = vec![0_u8; header.body_bytes];
    stream.read_exact(&mut body).await?;
    Ok(decode_frame(&body, bytes_max)?)
}

/// Writes one frame.
pub(crate) async fn write<T: Serialize>(
    stream: &mut SendStream,
    message: &T,
    bytes_max: usize,
) -> Result<(), StreamError> {
    stream.write_all(&encode_frame(message, bytes_max)?).await?;
    Ok(())
}
