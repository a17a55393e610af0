//! The streams link to one member: frames of all client streams between the two nodes.
//!
//! Senders append frames to one buffer, and the writer takes the whole buffer whenever the
//! connection has room: under load many frames go in one write, and a lone frame goes at once.
//! When more waits than the buffer should hold, streams take turns: a small answer does not wait
//! behind somebody's long download.
//!
//! What waits is bounded. Of clients' bytes each stream has a window's worth, twice at most: it is a
//! second copy of what its end keeps anyway, and ends are as many as there may be connections. When an
//! end begins anew it sends all again that was not acknowledged, so what waits of it is dropped then;
//! only a peer that acknowledges what it has not read can come to the limit. All other frames answer
//! something, and a peer could make us answer without ever reading. When too much waits, the link is
//! dropped.

use super::transport::{self, Secured};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use wire::StreamId;
use wire::frame::{Body, End, StreamFrame};
use wire::link::{FrameReader, MAX_STREAM, write_frame};

/// Bytes written at once; beyond, streams take turns.
const BATCH: usize = 128 << 10;
/// Bytes read at once.
const READ: usize = 64 << 10;

/// Bytes of frames without clients' bytes that may wait. Many thousand streams have a few of these
/// each, of some twenty bytes.
const MAX_ANSWERS: usize = 16 << 20;
/// Clients' bytes of one stream that may wait beyond the next write: two windows. (Each frame costs
/// some 50 bytes more.)
const MAX_BYTES: usize = 512 << 10;

/// A running streams link.
#[derive(Debug)]
pub struct StreamsLink {
    out: Arc<Out>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Out {
    queue: Mutex<Queue>,
    filled: Notify,
    /// Too much waits.
    stuck: Notify,
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Queue {
    /// The next write.
    batch: Vec<u8>,
    /// Streams whose frames did not fit any more, in the order of their turns, with the frames.
    turns: VecDeque<StreamId>,
    beyond: HashMap<StreamId, Beyond>,
    /// Bytes of answers in the next write, and beyond it.
    answers_next: usize,
    answers_beyond: usize,
}

/// Frames of one stream that did not fit.
#[derive(Debug, Default)]
struct Beyond {
    frames: VecDeque<Waiting>,
    /// Clients' bytes in them.
    content: usize,
}

/// A frame that did not fit.
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    /// Clients' bytes in it; one without any is an answer.
    content: usize,
    /// For which end it is, if that end gets it again when ours begins anew.
    again: Option<End>,
}

/// Bytes that a window counts; a frame without any is an answer.
fn content(frame: &StreamFrame) -> usize {
    match &frame.body {
        Body::Data { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

impl Queue {
    /// Adds a frame; false if the peer lets too much wait.
    #[must_use]
    fn push(&mut self, frame: &StreamFrame) -> bool {
        let content = content(frame);
        let is_answer = content == 0;
        if matches!(frame.body, Body::Resume { .. } | Body::Resumed { .. }) {
            self.drop_repeated(frame.stream, frame.to);
        }
        if is_answer && self.answers_next + self.answers_beyond > MAX_ANSWERS {
            return false;
        }
        if self.turns.is_empty() && self.batch.len() < BATCH {
            let before = self.batch.len();
            encode(frame, &mut self.batch);
            if is_answer {
                self.answers_next += self.batch.len() - before;
            }
            return true;
        }
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        if is_answer {
            self.answers_beyond += bytes.len();
        }
        let beyond = self.beyond.entry(frame.stream).or_default();
        if beyond.frames.is_empty() {
            self.turns.push_back(frame.stream);
        }
        beyond.content += content;
        let again = matches!(frame.body, Body::Data { .. } | Body::Fin { .. });
        beyond.frames.push_back(Waiting {
            bytes,
            content,
            again: again.then_some(frame.to),
        });
        beyond.content <= MAX_BYTES
    }

    /// An end begins anew: what waits of it, of a stream's bytes and their end, it will send again.
    fn drop_repeated(&mut self, stream: StreamId, to: End) {
        let Entry::Occupied(mut entry) = self.beyond.entry(stream) else {
            return;
        };
        let (beyond, answers) = (entry.get_mut(), &mut self.answers_beyond);
        let content = &mut beyond.content;
        beyond.frames.retain(|frame| {
            let dropped = frame.again == Some(to);
            if dropped {
                *content = content.saturating_sub(frame.content);
                *answers = answers.saturating_sub(frame.answer_bytes());
            }
            !dropped
        });
        if beyond.frames.is_empty() {
            entry.remove();
            self.turns.retain(|turn| *turn != stream);
        }
    }

    /// Swaps the next write with an empty buffer, and fills the one after.
    fn take(&mut self, batch: &mut Vec<u8>) {
        std::mem::swap(&mut self.batch, batch);
        self.answers_next = 0;
        while self.batch.len() < BATCH
            && let Some(stream) = self.turns.pop_front()
        {
            let Entry::Occupied(mut entry) = self.beyond.entry(stream) else {
                continue;
            };
            let beyond = entry.get_mut();
            if let Some(frame) = beyond.frames.pop_front() {
                self.batch.extend_from_slice(&frame.bytes);
                beyond.content = beyond.content.saturating_sub(frame.content);
                let answers = frame.answer_bytes();
                self.answers_next += answers;
                self.answers_beyond = self.answers_beyond.saturating_sub(answers);
            }
            if beyond.frames.is_empty() {
                entry.remove();
            } else {
                self.turns.push_back(stream);
            }
        }
    }
}

impl Waiting {
    /// Its length, if it is an answer.
    fn answer_bytes(&self) -> usize {
        match self.content {
            0 => self.bytes.len(),
            _ => 0,
        }
    }
}

fn encode(frame: &StreamFrame, out: &mut Vec<u8>) {
    if let Err(error) = write_frame(frame, MAX_STREAM, out) {
        tracing::error!(%error, "a stream frame cannot be sent");
    }
}

impl Out {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamsLink {
    /// Runs a link. `arrived` takes each frame, in order; `closed` is called once, with the
    /// reason, if the connection ends by itself.
    pub fn start(
        stream: Secured,
        arrived: impl FnMut(StreamFrame) + Send + 'static,
        closed: impl FnOnce(String) + Send + 'static,
    ) -> StreamsLink {
        let out = Arc::new(Out::default());
        let source = out.clone();
        let task = tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(stream);
            let result = tokio::select! {
                result = read(reader, arrived) => result,
                result = write(writer, &source) => result,
                () = source.stuck.notified() => {
                    Err(io::Error::other("the other side does not read what it asks for"))
                }
            };
            closed(transport::reason(result));
        });
        StreamsLink {
            out,
            task: task.abort_handle(),
        }
    }

    /// Queues a frame.
    pub fn send(&self, frame: &StreamFrame) {
        let mut queue = self.out.queue();
        let first = queue.batch.is_empty();
        let room = queue.push(frame);
        drop(queue);
        if !room {
            // The connection ends, and what is lost with it is made good on the next.
            self.out.stuck.notify_one();
        }
        if first {
            self.out.filled.notify_one();
        }
    }
}

impl Drop for StreamsLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(
    mut reader: tokio::io::ReadHalf<Secured>,
    mut arrived: impl FnMut(StreamFrame),
) -> io::Result<()> {
    let mut frames = FrameReader::new(MAX_STREAM);
    let mut chunk = vec![0; READ];
    loop {
        let length = reader.read(&mut chunk).await?;
        let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        frames.push(bytes).map_err(io::Error::other)?;
        while let Some(frame) = frames.next_frame().map_err(io::Error::other)? {
            arrived(frame);
        }
    }
}

async fn write(mut writer: tokio::io::WriteHalf<Secured>, out: &Out) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        out.queue().take(&mut batch);
        if batch.is_empty() {
            out.filled.notified().await;
            continue;
        }
        writer.write_all(&batch).await?;
        writer.flush().await?;
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Epoch, NodeId, ProcessId};

    fn frame(stream: u64, bytes: usize) -> StreamFrame {
        StreamFrame {
            process: ProcessId(1),
            stream: StreamId(stream),
            to: End::Anchor,
            epoch: Epoch(1),
            body: Body::Data {
                offset: 0,
                bytes: vec![stream as u8; bytes],
            },
        }
    }

    fn written(queue: &mut Queue) -> Vec<u64> {
        let mut batch = Vec::new();
        queue.take(&mut batch);
        let mut reader = FrameReader::new(MAX_STREAM);
        let mut streams = Vec::new();
        for chunk in batch.chunks(READ) {
            reader.push(chunk).unwrap();
            while let Some(frame) = reader.next_frame::<StreamFrame>().unwrap() {
                streams.push(frame.stream.0);
            }
        }
        streams
    }

    #[test]
    fn frames_that_fit_go_in_one_write_in_their_order() {
        let mut queue = Queue::default();
        for stream in [3, 1, 2, 1] {
            assert!(queue.push(&frame(stream, 100)));
        }
        assert_eq!(written(&mut queue), [3, 1, 2, 1]);
        assert!(written(&mut queue).is_empty());
    }

    #[test]
    fn a_small_answer_does_not_wait_behind_a_long_download() {
        let mut queue = Queue::default();
        for _ in 0..10 {
            assert!(queue.push(&frame(1, 60_000)));
        }
        assert!(queue.push(&frame(2, 100)));
        let (mut writes, mut first) = (0, 0);
        loop {
            let streams = written(&mut queue);
            first += streams.len();
            if streams.contains(&2) {
                break;
            }
            writes += 1;
        }
        assert!(writes <= 1, "{writes}");
        // And nothing of the download is lost.
        let mut rest = 0;
        loop {
            match written(&mut queue).len() {
                0 => break,
                frames => rest += frames,
            }
        }
        assert_eq!(first + rest, 11);
    }

    #[test]
    fn an_end_that_begins_anew_again_and_again_has_one_window_waiting() {
        let mut queue = Queue::default();
        // Another stream, and the other direction of this one, are not concerned.
        for _ in 0..4 {
            assert!(queue.push(&frame(2, 60_000)));
        }
        let back = StreamFrame {
            to: End::Process,
            ..frame(1, 100)
        };
        assert!(queue.push(&back));
        let resumed = StreamFrame {
            body: Body::Resumed {
                received: 0,
                limit: 0,
            },
            ..frame(1, 0)
        };
        let resume = StreamFrame {
            body: Body::Resume {
                node: NodeId([1; 32]),
                received: 0,
                limit: 0,
            },
            ..frame(1, 0)
        };
        let fin = StreamFrame {
            body: Body::Fin { offset: 240_000 },
            ..frame(1, 0)
        };
        const TIMES: usize = 1000;
        for n in 0..TIMES {
            let begin = if n % 2 == 0 { &resumed } else { &resume };
            assert!(queue.push(begin));
            for _ in 0..4 {
                assert!(queue.push(&frame(1, 60_000)), "{n}");
            }
            assert!(queue.push(&fin));
        }
        assert_eq!(queue.beyond[&StreamId(1)].content, 240_100);
        let mut written = Vec::new();
        loop {
            let mut batch = Vec::new();
            queue.take(&mut batch);
            if batch.is_empty() {
                break;
            }
            let mut reader = FrameReader::new(MAX_STREAM);
            for chunk in batch.chunks(READ) {
                reader.push(chunk).unwrap();
                while let Some(frame) = reader.next_frame::<StreamFrame>().unwrap() {
                    written.push(frame);
                }
            }
        }
        let of_one = |frame: &&StreamFrame| frame.stream == StreamId(1);
        let of_one: Vec<&StreamFrame> = written.iter().filter(of_one).collect();
        assert_eq!(of_one.len(), 1 + TIMES + 5);
        assert_eq!(*of_one[0], back);
        assert_eq!(*of_one[TIMES + 5], fin, "its end comes after its bytes");
        assert_eq!(written.len() - of_one.len(), 4);
        assert_eq!((queue.answers_next, queue.answers_beyond), (0, 0));
        assert!(queue.beyond.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn bytes_that_are_acknowledged_unread_are_bounded() {
        let mut queue = Queue::default();
        let taken = (0..1000).take_while(|_| queue.push(&frame(1, 60_000)));
        let taken = taken.count() * 60_000;
        assert!(
            (MAX_BYTES..MAX_BYTES + 2 * BATCH).contains(&taken),
            "{taken}"
        );
    }

    #[test]
    fn answers_that_nobody_reads_are_bounded_and_clients_bytes_do_not_count() {
        let mut queue = Queue::default();
        let ack = |stream| StreamFrame {
            body: Body::Ack {
                received: 1,
                limit: 1,
            },
            ..frame(stream, 0)
        };
        let mut asked = 0..1 << 21;
        let taken = asked.by_ref().take_while(|n| queue.push(&ack(n % 100)));
        let taken = taken.count();
        assert!(asked.next().is_some(), "{taken}");
        let waits = queue.batch.len() + queue.answers_beyond;
        assert!(waits <= MAX_ANSWERS + BATCH, "{waits}");
        assert!(queue.push(&frame(7, 60_000)));
        // Once they are read, there is room again.
        let mut batch = Vec::new();
        queue.take(&mut batch);
        batch.clear();
        queue.take(&mut batch);
        assert!(queue.push(&ack(1)));
        loop {
            batch.clear();
            queue.take(&mut batch);
            if batch.is_empty() {
                break;
            }
        }
        assert_eq!((queue.answers_next, queue.answers_beyond), (0, 0));
    }
}
