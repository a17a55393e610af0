//! The standard streams of this OS process, for a program in the foreground.
//!
//! Input is read by a thread, and only when the program asks: what it does not read stays for
//! whoever reads the terminal next.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use tokio::sync::Notify;
use vm::ports::{Io, Stdio};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// See the module's documentation.
pub struct Terminal {
    input: Arc<Input>,
    unread: Notify,
}

#[derive(Default)]
struct Input {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    ended: bool,
    wanted: bool,
    reading: bool,
    waker: Option<Waker>,
}

impl Input {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads whenever it is wanted, until the end.
    fn read_on_demand(&self) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let mut state = self.state();
            while !state.wanted {
                state = self
                    .wanted
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            let length = read_input(&mut chunk);
            let mut state = self.state();
            state.bytes.extend(chunk.iter().take(length));
            state.ended = length == 0;
            state.wanted = false;
            if let Some(waker) = &state.waker {
                waker.wake_by_ref();
            }
            if state.ended {
                return;
            }
        }
    }
}

/// Reads standard input of this OS process, waiting for some. Returns the number of bytes; 0 at its
/// end.
pub fn read_input(buffer: &mut [u8]) -> usize {
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Ok(length) => return length,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(rustix::stdio::stdin(), PollFlags::IN),
            // A terminal that is gone, or a descriptor that is closed.
            Err(_) => return 0,
        }
    }
}

fn wait_for(descriptor: BorrowedFd<'_>, what: PollFlags) {
    // A failure ends the wait, and the call that is tried again says more.
    let _ = poll(&mut [PollFd::new(&descriptor, what)], None);
}

impl Default for Terminal {
    fn default() -> Self {
        Terminal::new()
    }
}

impl Terminal {
    /// Nothing is read before it is asked for.
    pub fn new() -> Terminal {
        Terminal {
            input: Arc::default(),
            unread: Notify::new(),
        }
    }

    /// Waits until the program has written to standard output or error that nobody reads any
    /// more.
    pub async fn unread(&self) {
        self.unread.notified().await;
    }

    fn want(&self, state: &mut State) {
        if state.wanted || state.ended {
            return;
        }
        state.wanted = true;
        if state.reading {
            self.input.wanted.notify_one();
            return;
        }
        let input = self.input.clone();
        let thread = std::thread::Builder::new().name("stdin".to_owned());
        // Ends with the OS process: a blocked read cannot be called off.
        match thread.spawn(move || input.read_on_demand()) {
            Ok(_) => state.reading = true,
            Err(_) => state.ended = true,
        }
    }
}

impl Stdio for Terminal {
    fn read(&self, buffer: &mut [u8]) -> Io {
        let mut state = self.input.state();
        if state.bytes.is_empty() && !state.ended && !buffer.is_empty() {
            self.want(&mut state);
            return Io::Blocked;
        }
        let length = buffer.len().min(state.bytes.len());
        for (to, from) in buffer.iter_mut().zip(state.bytes.drain(..length)) {
            *to = from;
        }
        Io::Done(length)
    }

    fn readable(&self) -> bool {
        let mut state = self.input.state();
        if state.bytes.is_empty() && !state.ended {
            self.want(&mut state);
            return false;
        }
        true
    }

    fn write(&self, descriptor: u32, bytes: &[u8]) -> Io {
        let target = match descriptor {
            2 => rustix::stdio::stderr(),
            _ => rustix::stdio::stdout(),
        };
        loop {
            match rustix::io::write(target, bytes) {
                Ok(length) => return Io::Done(length),
                Err(Errno::INTR) => {}
                // Who waits here keeps its thread, and others get another.
                Err(Errno::AGAIN) => wait_for(target, PollFlags::OUT),
                Err(error) => {
                    if error == Errno::PIPE {
                        self.unread.notify_one();
                    }
                    return Io::Closed;
                }
            }
        }
    }

    fn terminal(&self, descriptor: u32) -> bool {
        let descriptor = match descriptor {
            0 => rustix::stdio::stdin(),
            1 => rustix::stdio::stdout(),
            2 => rustix::stdio::stderr(),
            _ => return false,
        };
        rustix::termios::isatty(descriptor)
    }

    fn register(&self, waker: &Waker) {
        self.input.state().waker = Some(waker.clone());
    }
}
