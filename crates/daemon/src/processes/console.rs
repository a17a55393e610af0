//! The standard streams of a process of a node: what it writes goes into its log; what it reads
//! comes from the terminal that stays with it, if one does.
//!
//! ```text
//! attached --its reader is away for longer than GRACE--> detached
//! detached: input is at its end, output waits for nobody; so it is from birth without a terminal
//! ```
//!
//! While a terminal is attached, nothing is lost between it and the program. Output: the program
//! waits when what its reader has not fetched reaches [`UNREAD`], which is less than the log keeps.
//! Input: it is asked for when the program reads, so what the program does not read stays with
//! whoever reads the terminal next; each piece says at which position it begins, so one that is
//! sent again, as after a move, is not taken twice. All of this goes along when the process moves.

use super::log::Log;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use vm::ports::{Io, Stdio};
use wire::api::Terminals;
use wire::link::ConsoleState;

/// Bytes of log frames that the reader may be behind before the program waits.
pub const UNREAD: u64 = 128 << 10;
/// Bytes of output that are taken at once. As lines of one byte they are six times as many in the
/// log.
const PIECE: usize = 16 << 10;
/// Bytes of one piece of input, at most, and of input that the program has not read: it goes along
/// in a move.
pub const MAX_INPUT: usize = 64 << 10;
/// How long the reader may be away, between two nodes or because a link broke, before the process
/// is taken to be alone.
const GRACE: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct Console {
    log: Arc<Log>,
    state: Mutex<State>,
    /// Told when the program wants input, the terminal is gone, the seal is off.
    events: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    terminals: Terminals,
    attached: bool,
    input: VecDeque<u8>,
    /// Position after the last byte of input that was taken.
    received: u64,
    /// No more input comes.
    ended: bool,
    /// The program has asked for input that is not there.
    wanted: bool,
    /// What was written is with the reader up to this position of the log.
    fetched: u64,
    /// Readers that are there.
    present: u64,
    /// When the last one went, or none came.
    alone_since: Option<Instant>,
    /// A task looks after that.
    watched: bool,
    /// Its state has been handed on; nothing may change until it is known where it goes on.
    sealed: bool,
    waker: Option<Waker>,
}

/// Why input is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The process is frozen for a move.
    Sealed,
    /// No terminal is attached.
    Detached,
    /// Something before it is missing: what there is ends at this position.
    Gap(u64),
}

impl Console {
    /// Of a process that nobody stays with.
    pub fn detached(log: Arc<Log>) -> Arc<Console> {
        Console::made(log, State::default())
    }

    /// Of one that starts with a terminal.
    pub fn attached(log: Arc<Log>, terminals: Terminals) -> Arc<Console> {
        let fetched = *log.follow().borrow();
        let state = State {
            terminals,
            attached: true,
            fetched,
            ..State::default()
        };
        Console::made(log, state)
    }

    /// Of one that comes from elsewhere.
    pub fn moved_here(log: Arc<Log>, state: Option<ConsoleState>) -> Arc<Console> {
        let Some(state) = state else {
            return Console::detached(log);
        };
        let end = *log.follow().borrow();
        let state = State {
            terminals: state.terminals,
            attached: true,
            input: state.input.into(),
            received: state.received,
            ended: state.ended,
            fetched: state.fetched.min(end),
            ..State::default()
        };
        Console::made(log, state)
    }

    fn made(log: Arc<Log>, state: State) -> Arc<Console> {
        Arc::new(Console {
            log,
            state: Mutex::new(state),
            events: watch::Sender::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes along when the process moves: nothing if no terminal is attached. Until
    /// [`Console::go_on`] no more input is taken.
    pub fn seal(&self) -> Option<ConsoleState> {
        let mut state = self.state();
        state.sealed = true;
        state.attached.then(|| ConsoleState {
            terminals: state.terminals,
            input: state.input.iter().copied().collect(),
            received: state.received,
            ended: state.ended,
            fetched: state.fetched,
        })
    }

    /// The process goes on here. Its reader may have to come first.
    pub fn go_on(self: &Arc<Console>) {
        self.state().sealed = false;
        self.events.send_replace(());
        self.await_reader();
    }

    /// Takes what there is room for of a piece of input that begins at a position, or of what is
    /// new of it; `ended` says that none follows. Returns the position after what was taken.
    pub fn take_input(&self, at: u64, bytes: &[u8], ended: bool) -> Result<u64, NotTaken> {
        let mut state = self.state();
        if state.sealed {
            return Err(NotTaken::Sealed);
        }
        if !state.attached {
            return Err(NotTaken::Detached);
        }
        let known = state
            .received
            .checked_sub(at)
            .ok_or(NotTaken::Gap(state.received))?;
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        let room = MAX_INPUT.saturating_sub(state.input.len());
        let (taken, rest) = new.split_at(new.len().min(room));
        let ended = ended && rest.is_empty();
        if !state.ended && (!taken.is_empty() || ended) {
            state.input.extend(taken);
            state.received = state.received.saturating_add(taken.len() as u64);
            state.ended = ended;
            state.wanted = false;
            state.wake();
        }
        Ok(state.received)
    }

    /// Waits until the program wants more input than it has, or no terminal is attached any more.
    pub async fn wants_input(&self) {
        let mut events = self.events.subscribe();
        loop {
            {
                let state = self.state();
                if !state.sealed && (state.wanted || !state.attached) {
                    return;
                }
            }
            if events.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until input may be taken again.
    pub async fn unsealed(&self) {
        let mut events = self.events.subscribe();
        while self.state().sealed {
            if events.changed().await.is_err() {
                return;
            }
        }
    }

    /// A reader that stays with the process has come.
    pub fn reader(self: &Arc<Console>) -> Reader {
        self.state().present += 1;
        Reader(self.clone())
    }

    /// What was written up to this position of the log is with its reader.
    pub fn fetched(&self, position: u64) {
        let mut state = self.state();
        if position > state.fetched {
            state.fetched = position;
            state.wake();
        }
    }

    /// Takes the process to be alone if no reader comes in time.
    fn await_reader(self: &Arc<Console>) {
        // Without one there is nobody left who could come.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut state = self.state();
        if !state.attached || state.present > 0 {
            return;
        }
        state.alone_since = Some(Instant::now());
        if std::mem::replace(&mut state.watched, true) {
            return;
        }
        let console = self.clone();
        runtime.spawn(async move {
            while let Some(since) = console.alone_since() {
                tokio::time::sleep_until((since + GRACE).into()).await;
                if console.alone_since() == Some(since) {
                    console.detach();
                }
            }
        });
    }

    /// None ends the watch.
    fn alone_since(&self) -> Option<Instant> {
        let mut state = self.state();
        let alone = state.attached && state.present == 0;
        let since = state.alone_since.filter(|_| alone);
        state.watched = since.is_some();
        since
    }

    fn detach(&self) {
        let mut state = self.state();
        state.attached = false;
        state.ended = true;
        state.wake();
        drop(state);
        self.events.send_replace(());
    }

    fn want(&self, mut state: MutexGuard<'_, State>) {
        if !std::mem::replace(&mut state.wanted, true) {
            drop(state);
            self.events.send_replace(());
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// As long as there is one, somebody stays with the process.
pub struct Reader(Arc<Console>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.state().present -= 1;
        self.0.await_reader();
    }
}

impl Stdio for Console {
    fn read(&self, buffer: &mut [u8]) -> Io {
        let mut state = self.state();
        if state.attached && state.input.is_empty() && !state.ended && !buffer.is_empty() {
            self.want(state);
            return Io::Blocked;
        }
        let length = buffer.len().min(state.input.len());
        for (to, from) in buffer.iter_mut().zip(state.input.drain(..length)) {
            *to = from;
        }
        Io::Done(length)
    }

    fn readable(&self) -> bool {
        let state = self.state();
        if !state.attached || state.ended || !state.input.is_empty() {
            return true;
        }
        self.want(state);
        false
    }

    fn write(&self, descriptor: u32, bytes: &[u8]) -> Io {
        let stream = if descriptor == 2 { 2 } else { 1 };
        let state = self.state();
        if !state.attached {
            drop(state);
            self.log.append(stream, bytes);
            return Io::Done(bytes.len());
        }
        let mut written = 0;
        for piece in bytes.chunks(PIECE) {
            let end = *self.log.follow().borrow();
            if end.saturating_sub(state.fetched) >= UNREAD {
                return match written {
                    0 => Io::Blocked,
                    written => Io::Done(written),
                };
            }
            self.log.append(stream, piece);
            written += piece.len();
        }
        Io::Done(written)
    }

    fn terminal(&self, descriptor: u32) -> bool {
        let state = self.state();
        let terminals = state.terminals;
        state.attached
            && match descriptor {
                0 => terminals.stdin,
                1 => terminals.stdout,
                2 => terminals.stderr,
                _ => false,
            }
    }

    fn register(&self, waker: &Waker) {
        self.state().waker = Some(waker.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Wakes>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn attached() -> Arc<Console> {
        Console::attached(Log::new(0, None), Terminals::default())
    }

    fn read(console: &Console) -> Result<Vec<u8>, Io> {
        let mut buffer = [0; 8];
        match console.read(&mut buffer) {
            Io::Done(length) => Ok(buffer[..length].to_vec()),
            other => Err(other),
        }
    }

    #[test]
    fn without_a_terminal_input_is_at_its_end_and_output_waits_for_nobody() {
        let console = Console::detached(Log::new(0, None));
        assert!(console.readable());
        assert_eq!(read(&console), Ok(Vec::new()));
        let much = vec![b'x'; 2 << 20];
        assert_eq!(console.write(1, &much), Io::Done(much.len()));
        assert_eq!(console.take_input(0, b"x", false), Err(NotTaken::Detached));
        assert_eq!(console.seal(), None);
    }

    #[test]
    fn input_that_is_sent_again_is_taken_once_and_a_gap_is_refused() {
        let console = attached();
        assert_eq!(read(&console), Err(Io::Blocked));
        assert_eq!(console.take_input(0, b"one", false), Ok(3));
        assert_eq!(console.take_input(0, b"one", false), Ok(3));
        assert_eq!(console.take_input(1, b"ne two", false), Ok(7));
        assert_eq!(console.take_input(9, b"x", false), Err(NotTaken::Gap(7)));
        assert_eq!(read(&console), Ok(b"one two".to_vec()));
        assert!(!console.readable());
        assert_eq!(console.take_input(7, b"", true), Ok(7));
        assert_eq!(read(&console), Ok(Vec::new()));
        // What comes after the end is not for it.
        assert_eq!(console.take_input(7, b"more", false), Ok(7));
        assert_eq!(read(&console), Ok(Vec::new()));
    }

    #[test]
    fn more_input_than_the_program_may_have_waiting_is_left_to_whoever_has_it() {
        let console = attached();
        let much = vec![b'x'; MAX_INPUT];
        assert_eq!(console.take_input(0, b"one", false), Ok(3));
        let full = MAX_INPUT as u64;
        assert_eq!(console.take_input(3, &much, true), Ok(full));
        assert_eq!(console.take_input(full, &much[..3], true), Ok(full));
        assert_eq!(read(&console), Ok(b"onexxxxx".to_vec()));
        // The end comes when all before it was taken.
        assert_eq!(console.take_input(full, b"end", true), Ok(full + 3));
        assert_eq!(console.take_input(full + 3, b"x", false), Ok(full + 3));
        let mut last = Vec::new();
        loop {
            let piece = read(&console).unwrap();
            if piece.is_empty() {
                break;
            }
            last = piece;
        }
        assert!(last.ends_with(b"end"));
    }

    #[test]
    fn positions_beyond_all_input_are_refused_or_harmless() {
        let hostile = ConsoleState {
            terminals: Terminals::default(),
            input: Vec::new(),
            received: u64::MAX - 1,
            ended: false,
            fetched: u64::MAX,
        };
        let console = Console::moved_here(Log::new(0, None), Some(hostile));
        assert_eq!(
            console.take_input(0, b"x", false),
            Ok(u64::MAX - 1),
            "what is known already"
        );
        let last = console.take_input(u64::MAX - 1, b"more", false);
        assert_eq!(last, Ok(u64::MAX));
    }

    #[test]
    fn what_is_sealed_takes_nothing_and_goes_on_elsewhere_where_it_stood() {
        let console = attached();
        console.take_input(0, b"before", false).unwrap();
        let state = console.seal();
        assert_eq!(console.take_input(6, b"x", false), Err(NotTaken::Sealed));
        let there = Console::moved_here(Log::new(0, None), state);
        assert_eq!(there.take_input(0, b"before and after", true), Ok(16));
        assert_eq!(read(&there), Ok(b"before a".to_vec()));
        // The move was off after all.
        console.go_on();
        assert_eq!(console.take_input(6, b"!", false), Ok(7));
    }

    #[test]
    fn a_program_waits_when_its_reader_is_far_behind_and_goes_on_when_it_has_fetched() {
        for line in [&b"x"[..], b"\n", b"a longer line\n"] {
            let console = attached();
            let wakes = Arc::new(Wakes::default());
            console.register(&Waker::from(wakes.clone()));
            let piece = line.repeat(PIECE / line.len());
            let mut written = 0;
            while let Io::Done(count) = console.write(1, &piece) {
                written += count;
            }
            let end = *console.log.follow().borrow();
            assert!(written > 0 && end >= UNREAD);
            // All of it is still there for the reader.
            assert_eq!(console.log.begin(), 0);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
            console.fetched(end);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
            assert_eq!(console.write(2, b"on"), Io::Done(2));
        }
    }

    #[tokio::test]
    async fn a_process_is_alone_when_no_reader_is_there_and_then_waits_for_nobody() {
        let console = attached();
        console.go_on();
        let born = console.alone_since();
        assert!(born.is_some());
        let (first, second) = (console.reader(), console.reader());
        drop(first);
        assert_eq!(console.alone_since(), None);
        drop(second);
        assert!(console.alone_since() >= born);
        assert_eq!(read(&console), Err(Io::Blocked));
        console.detach();
        assert_eq!(read(&console), Ok(Vec::new()));
        assert_eq!(console.write(1, &vec![0; 1 << 20]), Io::Done(1 << 20));
        assert_eq!(console.alone_since(), None);
    }

    #[tokio::test]
    async fn whoever_feeds_it_waits_until_it_wants_something() {
        let console = attached();
        let waiting = {
            let console = console.clone();
            tokio::spawn(async move { console.wants_input().await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(!console.readable());
        waiting.await.unwrap();
        console.take_input(0, b"x", false).unwrap();
        let more = console.wants_input();
        assert!(futures_util::FutureExt::now_or_never(more).is_none());
    }
}
