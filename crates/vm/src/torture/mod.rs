//! Torture: runs a program in a world that follows a seed, freezes it at random places, and looks
//! whether anyone could tell.
//!
//! - `world`: a virtual clock, seeded entropy, captured standard streams;
//! - `network`: clients that follow a script, and servers.
//!
//! Time passes with host calls, not with polls or freezes; where the program waits, first the next
//! step of the script happens, then the clock jumps to the next deadline. So what the program sees
//! follows from the seed alone, and every difference between [`plain`] and [`torture`] is a fault.
//!
//! At each freeze the process becomes a snapshot, the snapshot bytes, the bytes a snapshot, and
//! that a process in a fresh instance, of any of the engines that are given. Its memory goes in the
//! snapshot and, in turns, page by page as in a move.

mod network;
mod world;

pub use network::{Outside, Script, ScriptStep, ScriptedNetwork};
pub use world::{OnOutput, World};

use crate::engine::Polls;
use crate::image::Image;
use crate::memory::{Landing, PageReader, Window};
use crate::process::{Outcome, Process, SnapshotError};
use crate::snapshot::ThawError;
use crate::spec::Spec;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wire::pages::Batch;
use wire::snapshot::{DecodeError, FileTree, Snapshot};
use world::Wake;

/// Freezes beyond this many times the wanted number are not made.
const MOST_FREEZES: u64 = 3;

/// A run that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TortureError {
    /// An engine does not count polls.
    #[error("torture needs an engine made with `Polls::Countdown`")]
    Engine,
    /// The process could not be started or thawed.
    #[error("after {freezes} freezes: {error}")]
    Thaw {
        /// Freezes so far.
        freezes: u64,
        /// Why.
        error: Box<ThawError>,
    },
    /// No snapshot could be taken.
    #[error("after {freezes} freezes: {error}")]
    Snapshot {
        /// Freezes so far.
        freezes: u64,
        /// Why.
        error: SnapshotError,
    },
    /// The bytes of a snapshot could not be read.
    #[error("after {freezes} freezes: {error}")]
    Decode {
        /// Freezes so far.
        freezes: u64,
        /// Why.
        error: DecodeError,
    },
    /// Its memory could not be carried page by page.
    #[error("after {freezes} freezes: {error}")]
    Pages {
        /// Freezes so far.
        freezes: u64,
        /// Why.
        error: io::Error,
    },
    /// The snapshot that was read is not the one that was written.
    #[error("after {freezes} freezes: the snapshot that was read is not the one that was written")]
    Changed {
        /// Freezes so far.
        freezes: u64,
    },
}

/// Where a process is frozen.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Decides where.
    pub seed: u64,
    /// About how often.
    pub freezes: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As any process ends.
    Outcome(Outcome),
    /// The program waits for something that will not happen.
    Stalled,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// What the program wrote to standard output.
    pub output: Vec<u8>,
    /// What it wrote to standard error.
    pub errors: Vec<u8>,
    /// Its files at the end.
    pub files: FileTree,
    /// What it answered to each client, by the client's number in the script, and how the
    /// connection ended.
    pub answers: BTreeMap<u64, Answer>,
    /// Virtual time at the end.
    pub clock_ns: u64,
    /// Freezes, of which in host calls.
    pub freezes: u64,
    /// Freezes in host calls.
    pub freezes_in_calls: u64,
    /// Polls, modulo 2^32; only of a plain run.
    pub polls: u32,
    /// Host calls that may freeze; only of a plain run.
    pub host_calls: u64,
    /// Times that it was folded.
    pub folds: u64,
    /// How often it went on in an instance of each of the images, in their order.
    pub thaws: Vec<u64>,
    /// Bytes of the largest snapshot.
    pub largest_snapshot: usize,
}

/// What a client got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// The program shut its writing side down or closed.
    pub ended: bool,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Outcome(Outcome::Exited(code)) => write!(f, "exit code {code}"),
            End::Outcome(Outcome::Trapped(trap)) => write!(f, "the trap `{trap}`"),
            End::Outcome(Outcome::Killed) => f.write_str("a kill"),
            End::Outcome(Outcome::Frozen) => f.write_str("a freeze"),
            End::Stalled => f.write_str("a wait for what will not happen"),
        }
    }
}

impl End {
    /// Whether two runs ended alike. Where in the code a trap happened is not compared: the run
    /// module and the thaw module have different code for the same place.
    fn like(&self, other: &End) -> bool {
        match (self, other) {
            (End::Outcome(Outcome::Trapped(a)), End::Outcome(Outcome::Trapped(b))) => {
                a.reason == b.reason
            }
            (a, b) => a == b,
        }
    }
}

impl Report {
    /// Whether the program overflowed its stack.
    pub fn overflowed(&self) -> bool {
        matches!(&self.end, End::Outcome(Outcome::Trapped(trap)) if trap.overflow())
    }

    /// What is different between two runs of the same program in the same world, if anything is.
    ///
    /// How deep a program can call itself depends on the engine and on whether it was thawed,
    /// which gives it more room. So where one run overflowed its stack, the
    /// two are equal if they did the same until the first of them ended.
    pub fn difference(&self, other: &Report) -> Option<String> {
        if self.overflowed() || other.overflowed() {
            return self.difference_until_overflow(other);
        }
        let bytes = |what: &str, a: &[u8], b: &[u8]| {
            let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            format!(
                "{what} differs from byte {same}: {} and {} bytes",
                a.len(),
                b.len()
            )
        };
        if !self.end.like(&other.end) {
            return Some(format!("it ended with {} and {}", self.end, other.end));
        }
        if self.output != other.output {
            return Some(bytes("standard output", &self.output, &other.output));
        }
        if self.errors != other.errors {
            return Some(bytes("standard error", &self.errors, &other.errors));
        }
        if self.answers != other.answers {
            let clients = self.answers.iter().zip(&other.answers);
            let different = clients.into_iter().find(|(a, b)| a != b);
            return Some(match different {
                Some(((client, a), (_, b))) if a.bytes != b.bytes => bytes(
                    &format!("the answer to client {client}"),
                    &a.bytes,
                    &b.bytes,
                ),
                _ => "the clients' connections ended differently".to_owned(),
            });
        }
        if self.files != other.files {
            return Some("the files differ".to_owned());
        }
        if self.clock_ns != other.clock_ns {
            let (a, b) = (self.clock_ns, other.clock_ns);
            return Some(format!("the clock stands at {a} and {b} ns"));
        }
        None
    }

    fn difference_until_overflow(&self, other: &Report) -> Option<String> {
        let begins = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
        if !begins(&self.output, &other.output) {
            return Some("standard output differs before the stack overflows".to_owned());
        }
        if !begins(&self.errors, &other.errors) {
            return Some("standard error differs before the stack overflows".to_owned());
        }
        let nothing = Answer::default();
        let different = self.answers.iter().find(|(client, answer)| {
            let theirs = other.answers.get(client).unwrap_or(&nothing);
            !begins(&answer.bytes, &theirs.bytes)
        });
        let (client, _) = different?;
        Some(format!(
            "the answer to client {client} differs before the stack overflows"
        ))
    }
}

/// Runs the program without freezing it, and counts its polls and host calls.
pub fn plain(image: &Arc<Image>, spec: &Spec, world: &World) -> Result<Report, TortureError> {
    Run::new(std::slice::from_ref(image), spec, world)?.go(None)
}

/// Runs the program and folds it whenever it waits.
pub fn folded(image: &Arc<Image>, spec: &Spec, world: &World) -> Result<Report, TortureError> {
    let prepared = image.prepare_thaw();
    prepared.map_err(|error| TortureError::Thaw {
        freezes: 0,
        error: Box::new(error.into()),
    })?;
    let mut run = Run::new(std::slice::from_ref(image), spec, world)?;
    run.folds = true;
    run.go(None)
}

/// Runs the program and freezes it at random places; each time it goes on in an instance of one of
/// the `images`, which are the same program on different engines. `like` is a plain run, which
/// tells how many places there are.
pub fn torture(
    images: &[Arc<Image>],
    spec: &Spec,
    world: &World,
    places: Places,
    like: &Report,
) -> Result<Report, TortureError> {
    Run::new(images, spec, world)?.go(Some((places, like)))
}

struct Run<'a> {
    images: &'a [Arc<Image>],
    process: Process,
    wake: Arc<Wake>,
    world: world::Living,
    /// Whether to fold it whenever it waits.
    folds: bool,
}

impl<'a> Run<'a> {
    fn new(images: &'a [Arc<Image>], spec: &Spec, world: &World) -> Result<Run<'a>, TortureError> {
        let counts = |image: &Arc<Image>| image.engine().polls() == Polls::Countdown;
        let Some(first) = images.first().filter(|_| images.iter().all(counts)) else {
            return Err(TortureError::Engine);
        };
        let world = world.begin(spec);
        let process = Process::start(first, spec, world.ports());
        let process = process.map_err(|error| TortureError::Thaw {
            freezes: 0,
            error: Box::new(error),
        })?;
        Ok(Run {
            images,
            process,
            wake: Arc::new(Wake::default()),
            world,
            folds: false,
        })
    }

    fn go(mut self, places: Option<(Places, &Report)>) -> Result<Report, TortureError> {
        let mut dice = Dice::new(places.map_or(0, |(places, _)| places.seed));
        let (mut freezes, mut freezes_in_calls, mut largest_snapshot) = (0, 0, 0);
        let mut thaws = vec![0; self.images.len()];
        let end = loop {
            let armed = match places {
                Some((places, like)) if freezes < places.freezes.saturating_mul(MOST_FREEZES) => {
                    dice.distances(places, like)
                }
                _ => (0, u64::MAX),
            };
            self.process.arm(armed.0, armed.1);
            match self.drive() {
                End::Outcome(Outcome::Frozen) => {}
                end => break end,
            }
            if places.is_none() {
                continue;
            }
            freezes += 1;
            freezes_in_calls += u64::from(self.process.host_calls_left() == 0);
            let next = dice.below(self.images.len() as u64) as usize;
            let bytes = self.hop(&self.images[next], freezes)?;
            thaws[next] += 1;
            largest_snapshot = largest_snapshot.max(bytes);
        };
        let (output, errors) = self.world.written();
        Ok(Report {
            end,
            output,
            errors,
            files: self.process.files().unwrap_or_default(),
            answers: self.world.answers(),
            clock_ns: self.world.clock_ns(),
            freezes,
            freezes_in_calls,
            folds: self.process.accounts().folds,
            thaws,
            polls: self.process.polls_left().wrapping_neg(),
            host_calls: u64::MAX - self.process.host_calls_left(),
            largest_snapshot,
        })
    }

    /// Runs until something ends the run, playing the world whenever the program waits.
    fn drive(&mut self) -> End {
        let waker = Arc::clone(&self.wake).into();
        let mut context = Context::from_waker(&waker);
        let control = self.process.control();
        let mut run = pin!(self.process.run());
        let mut asked = false;
        loop {
            self.wake.reset();
            self.world.forget_deadline();
            match run.as_mut().poll(&mut context) {
                Poll::Ready(outcome) => return End::Outcome(outcome),
                Poll::Pending if self.wake.woken() => {}
                Poll::Pending if self.folds && !asked => asked = control.fold(),
                Poll::Pending if self.world.advance() => asked = false,
                Poll::Pending => return End::Stalled,
            }
        }
    }

    /// Snapshot, bytes, snapshot, fresh instance; every other time without its memory, which is lent
    /// and lands page by page where that instance has it.
    fn hop(&mut self, image: &Arc<Image>, freezes: u64) -> Result<usize, TortureError> {
        let lends = freezes.is_multiple_of(2);
        let lent = match lends {
            true => self.process.lend(),
            false => self.process.snapshot().map(|whole| (whole, Vec::new())),
        };
        let (snapshot, windows) =
            lent.map_err(|error| TortureError::Snapshot { freezes, error })?;
        let bytes = snapshot.encode();
        let read = Snapshot::decode(&bytes);
        let read = read.map_err(|error| TortureError::Decode { freezes, error })?;
        if read != snapshot {
            return Err(TortureError::Changed { freezes });
        }
        self.world.restore(&read.kernel);
        let ports = self.world.ports();
        let thaw = |error| TortureError::Thaw {
            freezes,
            error: Box::new(error),
        };
        if !lends {
            self.process = Process::thaw(image, read, ports).map_err(thaw)?;
            return Ok(bytes.len());
        }
        let (landing, sent) =
            carry(image, &read, windows).map_err(|error| TortureError::Pages { freezes, error })?;
        let thawed = Process::thaw_landed(image, read, landing, ports);
        self.process = thawed.map_err(thaw)?;
        Ok(bytes.len() + sent)
    }
}

/// The memory that a process has lent, landed elsewhere, and bytes sent.
fn carry(
    image: &Arc<Image>,
    snapshot: &Snapshot,
    windows: Vec<Window>,
) -> io::Result<(Landing, usize)> {
    let landing = image.landing(snapshot.kernel.limits.memory_bytes);
    let mut landing = landing.map_err(io::Error::other)?;
    let mut reader = PageReader::of_differing(windows);
    let mut sent = 0;
    while let Some(mut part) = reader.next_part()? {
        sent += part.len();
        while !part.is_empty() {
            let batch = Batch::take(&mut part).map_err(io::Error::other)?;
            landing.land(&batch).map_err(io::Error::other)?;
        }
    }
    Ok((landing, sent))
}

/// Random numbers from a seed.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut hasher = blake3::Hasher::new_derive_key("limosa torture places 1");
        Dice(hasher.update(&seed.to_le_bytes()).finalize_xof())
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// How many polls and host calls from now to freeze: spread over the whole run, with some
    /// freezes in close succession. At least 2, or a freeze might make no progress.
    fn distances(&mut self, places: Places, like: &Report) -> (u32, u64) {
        let mut distance = |count: u64| match self.below(4) {
            0 => 2 + self.below(8),
            _ => 2 + self.below(2 * count / places.freezes.max(1)),
        };
        let polls = u32::try_from(distance(like.polls.into())).unwrap_or(u32::MAX);
        let calls = distance(like.host_calls);
        match self.below(3) {
            0 => (polls, u64::MAX),
            // Most likely in a call; but a program that makes no more of them is frozen too.
            1 => (polls.saturating_mul(8), calls),
            _ => (polls, calls),
        }
    }
}
