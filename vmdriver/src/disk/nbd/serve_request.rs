//! Carries out one request and answers it.

use std::io;

use super::connection::{Job, Replies};
use super::handshake::Session;
use super::reply::{self, Extent};
use super::request::Action;
use super::wire::Errno;
use crate::disk::volume::Volume;
use crate::limits::{NBD_EXTENTS_MAX, NBD_REPLY_BYTES_MAX};

/// Does what is asked for and sends the reply.
///
/// # Errors
/// If the reply can't be sent.
pub(crate) fn run(job: &Job, replies: &Replies, volume: &Volume, session: Session) -> io::Result<()> {
    let (offset, bytes) = (job.request.offset, job.request.bytes);
    let range = offset..offset.saturating_add(u64::from(bytes));
    let flushed = |durable: bool| if durable { volume.flush() } else { Ok(()) };
    let result = match job.action {
        Err(error) => return refuse(job, replies, session, error),
        Ok(Action::Read { in_one_chunk }) => {
            return if session.structured && !in_one_chunk {
                read_in_chunks(job, replies, volume)
            } else {
                read_at_once(job, replies, volume, session)
            };
        }
        Ok(Action::BlockStatus { one }) => {
            let extents = volume.extents(range, NBD_EXTENTS_MAX);
            let count = if one { leading(&extents) } else { extents.len() };
            return replies.send(&[&reply::block_status(job.request.cookie, &extents[..count])]);
        }
        Ok(Action::Write { durable }) => volume.write(offset, &job.data).and_then(|()| flushed(durable)),
        Ok(Action::Zero { durable, allocate }) => {
            let zeroed = if allocate { write_zeros(volume, range) } else { volume.zero(range) };
            zeroed.and_then(|()| flushed(durable))
        }
        Ok(Action::Trim { durable }) => volume.trim(range).and_then(|()| flushed(durable)),
        Ok(Action::Flush) => volume.flush(),
        // Nothing is nearer than the files already.
        Ok(Action::Cache | Action::Disconnect) => Ok(()),
    };
    match result {
        Ok(()) if session.structured => replies.send(&[&reply::done(job.request.cookie)]),
        Ok(()) => replies.send(&[&reply::simple(job.request.cookie, None)]),
        Err(error) => refuse(job, replies, session, log(&error, job)),
    }
}

fn refuse(job: &Job, replies: &Replies, session: Session, error: Errno) -> io::Result<()> {
    let cookie = job.request.cookie;
    let bytes =
        if session.structured { reply::error(cookie, error) } else { reply::simple(cookie, Some(error)) };
    replies.send(&[&bytes])
}

/// How many of the first extents are of one kind.
fn leading(extents: &[Extent]) -> usize {
    extents.iter().take_while(|extent| extent.is_hole == extents[0].is_hole).count()
}

fn write_zeros(volume: &Volume, range: std::ops::Range<u64>) -> io::Result<()> {
    let zeros = vec![0; NBD_REPLY_BYTES_MAX];
    let mut at = range.start;
    while at < range.end {
        let bytes = (range.end - at).min(zeros.len() as u64);
        volume.write(at, &zeros[..bytes as usize])?;
        at += bytes;
    }
    Ok(())
}

/// Data and holes, each piece as soon as it is read.
fn read_in_chunks(job: &Job, replies: &Replies, volume: &Volume) -> io::Result<()> {
    let cookie = job.request.cookie;
    let (mut at, end) = (job.request.offset, job.request.offset + u64::from(job.request.bytes));
    let mut buffer = Vec::new();
    while at < end {
        for extent in volume.extents(at..end, NBD_EXTENTS_MAX) {
            let stop = at + extent.bytes;
            if extent.is_hole {
                // No longer than the request, which fits.
                replies.send(&[&reply::hole(cookie, stop == end, at, extent.bytes as u32)])?;
                at = stop;
            }
            while at < stop {
                let bytes = (stop - at).min(NBD_REPLY_BYTES_MAX as u64) as usize;
                buffer.resize(bytes, 0);
                if let Err(error) = volume.read(at, &mut buffer) {
                    return replies.send(&[&reply::error(cookie, log(&error, job))]);
                }
                let head = reply::data_head(cookie, at + bytes as u64 == end, at, bytes);
                replies.send(&[&head, &buffer])?;
                at += bytes as u64;
            }
        }
    }
    if job.request.bytes == 0 { replies.send(&[&reply::done(cookie)]) } else { Ok(()) }
}

fn read_at_once(job: &Job, replies: &Replies, volume: &Volume, session: Session) -> io::Result<()> {
    let mut buffer = vec![0; job.request.bytes as usize];
    if let Err(error) = volume.read(job.request.offset, &mut buffer) {
        return refuse(job, replies, session, log(&error, job));
    }
    let cookie = job.request.cookie;
    let head = if session.structured {
        reply::data_head(cookie, true, job.request.offset, buffer.len())
    } else {
        reply::simple(cookie, None)
    };
    replies.send(&[&head, &buffer])
}

/// What the client is told of an error; the rest goes to the log.
fn log(error: &io::Error, job: &Job) -> Errno {
    let (offset, bytes) = (job.request.offset, job.request.bytes);
    tracing::warn!(%error, offset, bytes, "the disk can't do what its client asks for");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Errno::NoSpace,
        io::ErrorKind::OutOfMemory => Errno::NoMemory,
        _ => Errno::Io,
    }
}
