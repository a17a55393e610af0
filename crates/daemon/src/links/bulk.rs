//! Bulk links: image, memory and snapshot of one move, outside of everything else's way.
//!
//! A link carries parts, each a header and that many raw bytes. It is dialled before the process
//! is frozen, so that the handshake is not in its downtime.

use super::transport::{Secured, read_frame};
use super::{Dialler, OpenError};
use bytes::Buf;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use wire::link::{BulkHeader, BulkKind, LinkKind, MAX_CONTROL, decode, write_frame};
use wire::{MoveId, NodeId};

/// How long a bulk link may stand still between two parts: as long as the other side may need to
/// compile.
const IDLE: Duration = Duration::from_secs(180);
/// How long it may stand still within a part.
const STALL: Duration = Duration::from_secs(10);
/// Bytes given to or asked of the connection at once.
const STEP: usize = 1 << 20;
/// Slices shorter than this are copied together before they are sent.
const SMALL: usize = 32 << 10;

/// The sending side.
#[derive(Debug)]
pub struct BulkOut {
    stream: Secured,
    id: MoveId,
}

impl BulkOut {
    /// Dials the link for a move.
    pub async fn dial(dialler: &Dialler, to: NodeId, id: MoveId) -> Result<BulkOut, OpenError> {
        let (stream, _) = dialler.open(to, LinkKind::Bulk).await?;
        Ok(BulkOut { stream, id })
    }

    /// Sends one part, which lies in as many slices.
    pub async fn send(&mut self, what: BulkKind, slices: &[&[u8]]) -> io::Result<()> {
        let header = BulkHeader {
            id: self.id,
            what,
            length: slices.iter().map(|slice| slice.len() as u64).sum(),
        };
        // Small pieces go together, large ones as they lie.
        let mut small = Vec::new();
        write_frame(&header, MAX_CONTROL, &mut small).map_err(io::Error::other)?;
        for slice in slices {
            if slice.len() < SMALL {
                small.extend_from_slice(slice);
                continue;
            }
            write(&mut self.stream, &small).await?;
            small.clear();
            for step in slice.chunks(STEP) {
                write(&mut self.stream, step).await?;
            }
        }
        write(&mut self.stream, &small).await?;
        timeout(STALL, self.stream.flush()).await.map_err(stalled)?
    }

    /// Waits until all pages that were sent have landed.
    pub async fn mark(&mut self) -> io::Result<()> {
        self.send_part(BulkKind::Mark, &[]).await?;
        let mut answer = [0];
        let answered = timeout(IDLE, self.stream.read_exact(&mut answer));
        answered.await.map_err(stalled)??;
        Ok(())
    }

    /// Sends one part that lies in one piece, with its header in one go.
    pub async fn send_part(&mut self, what: BulkKind, bytes: &[u8]) -> io::Result<()> {
        let header = BulkHeader {
            id: self.id,
            what,
            length: bytes.len() as u64,
        };
        let mut head = Vec::with_capacity(32);
        write_frame(&header, MAX_CONTROL, &mut head).map_err(io::Error::other)?;
        let mut whole = Buf::chain(&head[..], bytes);
        while whole.has_remaining() {
            let written = timeout(STALL, self.stream.write_buf(&mut whole));
            if written.await.map_err(stalled)?? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        timeout(STALL, self.stream.flush()).await.map_err(stalled)?
    }

    /// Closes the link in order: nothing more comes.
    pub async fn finish(mut self) {
        // What was to arrive has arrived; how the link ends is of no account.
        let _ = timeout(STALL, self.stream.shutdown()).await;
    }
}

async fn write(stream: &mut Secured, bytes: &[u8]) -> io::Result<()> {
    timeout(STALL, stream.write_all(bytes))
        .await
        .map_err(stalled)?
}

fn stalled(_: tokio::time::error::Elapsed) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("nothing moved for {} s", STALL.as_secs()),
    )
}

/// Reads the header of the next part; none when the sender is done.
pub async fn next_header(stream: &mut Secured) -> io::Result<Option<BulkHeader>> {
    let message = timeout(IDLE, read_frame(stream, MAX_CONTROL))
        .await
        .map_err(stalled)??;
    match message {
        Some(message) => decode(&message).map(Some).map_err(io::Error::other),
        None => Ok(None),
    }
}

/// Answers a mark.
pub async fn answer_mark(stream: &mut Secured) -> io::Result<()> {
    write(stream, &[0]).await?;
    timeout(STALL, stream.flush()).await.map_err(stalled)?
}

/// Reads the bytes of a part into `buffer`, which it must fit into, and gives them.
pub async fn read_part_into<'a>(
    stream: &mut Secured,
    length: u64,
    buffer: &'a mut [u8],
) -> io::Result<&'a [u8]> {
    let most = buffer.len() as u64;
    let length = usize::try_from(length).ok();
    let part = length.and_then(|length| buffer.get_mut(..length));
    let part = part.ok_or_else(|| {
        let reason = format!("a part where at most {most} bytes are allowed");
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })?;
    let mut at = 0;
    while let Some(rest) = part.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let read = timeout(STALL, stream.read(rest)).await.map_err(stalled)??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += read;
    }
    Ok(part)
}

/// Reads the bytes of a part, at most `limit`.
pub async fn read_part(stream: &mut Secured, length: u64, limit: u64) -> io::Result<Vec<u8>> {
    let too_long = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{length} bytes where at most {limit} are allowed"),
        )
    };
    if length > limit {
        return Err(too_long());
    }
    let length = usize::try_from(length).map_err(|_| too_long())?;
    // Large room costs nothing until there is something in it, and is never copied as it fills. How
    // much a member may claim is bounded by `limit`.
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    while bytes.len() < length {
        let missing = length - bytes.len();
        let mut rest = (&mut *stream).take(missing.min(STEP) as u64);
        let read = timeout(STALL, rest.read_buf(&mut bytes))
            .await
            .map_err(stalled)??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}
