//! The memory of a process on its way: read at the source part by part, written at the target where
//! the process will have it.
//!
//! ```text
//!   source: round 0: what differs from the image   round 1, 2, …: what was written   rest: what is
//!           |<- from here on writes are tracked    since the last one                left, frozen
//! ```

use super::pace::Pace;
use crate::links::bulk::BulkOut;
use crate::node_loop::LoopHandle;
use migrate::rounds::Round;
use node::event::Event;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use vm::{Landing, PageReader, Tracker, Window};
use wire::MoveId;
use wire::link::BulkKind;
use wire::pages::{Batch, MAX_PART_BYTES};

/// The node is told that pages come, as often as this.
const NEWS: Duration = Duration::from_secs(1);

/// Where the memory of a process lands, until the process is made there.
#[derive(Clone)]
pub struct Ground {
    node: LoopHandle,
    id: MoveId,
    state: Arc<Mutex<State>>,
}

struct State {
    landing: Option<Landing>,
    told: Option<Instant>,
}

impl Ground {
    /// For the pages of this move to land.
    pub fn new(node: LoopHandle, id: MoveId, landing: Landing) -> Ground {
        let landing = Some(landing);
        let state = State {
            landing,
            told: None,
        };
        let state = Arc::new(Mutex::new(state));
        Ground { node, id, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a part that came.
    pub fn land(&self, mut part: &[u8]) -> Result<(), String> {
        let mut state = self.state();
        if state.told.is_none_or(|told| told.elapsed() >= NEWS) {
            state.told = Some(Instant::now());
            self.node.event(Event::Landing { id: self.id });
        }
        let landing = state.landing.as_mut();
        let landing = landing.ok_or("pages came when the process was there already")?;
        while !part.is_empty() {
            let batch = Batch::take(&mut part).map_err(|error| error.to_string())?;
            landing.land(&batch).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Takes what has landed: from now on nothing does.
    pub fn take(&self) -> Option<Landing> {
        self.state().landing.take()
    }
}

/// A buffer, and whether what was in it has landed.
type Landed = (Box<[u8]>, Result<(), String>);

/// Writes parts where they belong, each while the next one is read.
#[derive(Default)]
pub struct Lander {
    busy: Option<JoinHandle<Landed>>,
    free: Vec<Box<[u8]>>,
}

impl Lander {
    /// Room for a part.
    pub fn buffer(&mut self) -> Box<[u8]> {
        let free = self.free.pop();
        free.unwrap_or_else(|| vec![0; MAX_PART_BYTES].into())
    }

    /// Waits until all has landed that came before.
    pub async fn done(&mut self) -> Result<(), String> {
        let Some(busy) = self.busy.take() else {
            return Ok(());
        };
        let (buffer, result) = busy.await.map_err(|error| error.to_string())?;
        self.free.push(buffer);
        result
    }

    /// Writes the part in the first bytes of a buffer, when the last one is done.
    pub async fn land(
        &mut self,
        ground: Ground,
        buffer: Box<[u8]>,
        length: usize,
    ) -> Result<(), String> {
        self.done().await?;
        self.busy = Some(tokio::task::spawn_blocking(move || {
            let result = ground.land(buffer.get(..length).unwrap_or_default());
            (buffer, result)
        }));
        Ok(())
    }
}

/// Parts of each memory of a process, in bytes and in order.
type Parts = Vec<Vec<Range<u64>>>;

/// A round that was not made.
#[derive(Debug)]
pub enum NoRound {
    /// What the process writes cannot be known; why.
    Untracked(String),
    /// The link broke, or the memory cannot be read.
    Broken(io::Error),
}

impl From<io::Error> for NoRound {
    fn from(error: io::Error) -> NoRound {
        NoRound::Broken(error)
    }
}

/// How much of a process's memory is sent, for who looks on.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<(AtomicU64, AtomicU64)>);

impl Progress {
    fn begin(&self, bytes: u64) {
        self.0.0.store(bytes, Ordering::Relaxed);
        self.left(bytes);
    }

    fn left(&self, bytes: u64) {
        self.0.1.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that the round began with, and those that are left of it.
    pub fn read(&self) -> (u64, u64) {
        let (begun, left) = &*self.0;
        (begun.load(Ordering::Relaxed), left.load(Ordering::Relaxed))
    }
}

/// The memory of one process that is being moved away.
#[derive(Debug)]
pub struct Carrier {
    pace: Pace,
    /// Shows how far it is.
    progress: Progress,
    /// Since the first round.
    tracked: Option<Tracked>,
    /// What has tracked, when all is sent. To let go of it, the system keeps everybody else from its
    /// map of this OS process for some milliseconds.
    over: Option<Tracker>,
    /// Whether the target has got anything.
    begun: bool,
}

#[derive(Debug)]
struct Tracked {
    tracker: Tracker,
    /// What was written since it was sent, as far as that is known.
    left: Parts,
}

impl Carrier {
    /// Sends at this pace.
    pub fn new(pace: Pace, progress: Progress) -> Carrier {
        Carrier {
            pace,
            progress,
            tracked: None,
            over: None,
            begun: false,
        }
    }

    /// Sends a round of the memory that is seen through these windows, while it is in use, and waits
    /// until it has landed.
    pub async fn round(
        &mut self,
        link: &mut BulkOut,
        windows: Vec<Window>,
    ) -> Result<Round, NoRound> {
        let began = Instant::now();
        let (tracker, reader) = match self.tracked.take() {
            None => {
                let these = windows.clone();
                let begin = move || {
                    // First, so that nothing is missed between it and the reading.
                    let tracker = Tracker::new(these.clone())?;
                    Ok((tracker, PageReader::of_differing(these)))
                };
                let begun = blocking(begin).await?;
                begun.map_err(|error: vm::Untracked| NoRound::Untracked(error.to_string()))?
            }
            Some(Tracked { tracker, left }) if tracker.tracks(&windows) => {
                (tracker, PageReader::of_parts(windows, left))
            }
            Some(_) => {
                let reason = "the process was folded meanwhile, and has other memory now";
                return Err(NoRound::Untracked(reason.to_owned()));
            }
        };
        let bytes = self.send(link, reader).await?;
        // What is still in buffers on the way would wait before what is sent next.
        link.mark().await?;
        let took = began.elapsed();
        let (tracker, left) = take(tracker).await?;
        let dirty = left.iter().flatten().map(|part| part.end - part.start);
        let round = Round {
            bytes,
            took,
            dirty: dirty.sum(),
        };
        self.tracked = Some(Tracked { tracker, left });
        Ok(round)
    }

    /// Sends what the target has not got of the memory of a process that stands still.
    pub async fn rest(&mut self, link: &mut BulkOut, windows: Vec<Window>) -> io::Result<u64> {
        let reader = match self.tracked.take() {
            Some(Tracked { tracker, left }) if tracker.tracks(&windows) => {
                let (tracker, written) = take(tracker).await?;
                self.over = Some(tracker);
                let parts = left.into_iter().zip(written);
                let parts = parts.map(|(left, written)| united(left, written)).collect();
                PageReader::of_parts(windows, parts)
            }
            // Something has landed, and nobody knows what of it is true.
            _ if self.begun => {
                let whole = windows
                    .iter()
                    .map(|window| std::iter::once(0..window.size()).collect())
                    .collect();
                PageReader::of_parts(windows, whole)
            }
            _ => blocking(move || PageReader::of_differing(windows)).await?,
        };
        self.send(link, reader).await
    }

    /// Lets go of the memory, when nobody waits any more.
    pub async fn end(self) {
        let _ = blocking(move || drop(self)).await;
    }

    /// Sends what there is to read. At most one part is in memory.
    async fn send(&mut self, link: &mut BulkOut, mut reader: PageReader) -> io::Result<u64> {
        let mut bytes = 0;
        self.progress.begin(reader.bytes_left());
        while let Some(part) = reader.next_part()? {
            if part.is_empty() {
                tokio::task::yield_now().await;
                continue;
            }
            self.begun = true;
            let began = Instant::now();
            link.send_part(BulkKind::Pages, part).await?;
            let sent = part.len() as u64;
            bytes += sent;
            self.progress.left(reader.bytes_left());
            if let Some(next) = self.pace.next(began, Instant::now(), sent) {
                tokio::time::sleep_until(next.into()).await;
            }
        }
        Ok(bytes)
    }
}

async fn take(mut tracker: Tracker) -> io::Result<(Tracker, Parts)> {
    let taken = blocking(move || tracker.take().map(|parts| (tracker, parts)));
    taken.await?
}

/// Work that looks at every page of a memory.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)
}

/// All that is in one of the two, in order.
fn united(mut one: Vec<Range<u64>>, other: Vec<Range<u64>>) -> Vec<Range<u64>> {
    one.extend(other);
    one.sort_unstable_by_key(|part| part.start);
    let mut united: Vec<Range<u64>> = Vec::with_capacity(one.len());
    for part in one {
        match united.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => united.push(part),
        }
    }
    united
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_united_in_order_and_once() {
        let one = vec![0..2, 6..8, 20..30];
        let other = vec![1..3, 8..9, 22..25, 40..41];
        assert_eq!(united(one, other), [0..3, 6..9, 20..30, 40..41]);
        assert_eq!(united(Vec::new(), vec![3..4, 6..7]), [3..4, 6..7]);
    }
}
