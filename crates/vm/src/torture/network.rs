//! Clients that follow a script, and servers that do always the same: what a program under torture
//! talks to.
//!
//! Nothing happens on its own: whenever the program waits, [`ScriptedNetwork::advance`] takes what
//! it has written and plays the next step. So the order of events follows from the program alone.

use super::Answer;
use crate::ports::{ConnectError, Destination, Io, Network, Progress, Readiness};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use wire::snapshot::{Listener, Stream};
use wire::{NodeId, StreamId, frame::ResetReason};

/// Bytes that the program may write before it must wait, unless the script says otherwise.
const WINDOW_BYTES: usize = 64 << 10;

/// What clients do, step by step. A client is named by a number of its own.
#[derive(Clone, Debug)]
pub struct Script {
    /// The steps, each played when the program waits.
    pub steps: Vec<ScriptStep>,
    /// Bytes that a client lets the program write before it must wait.
    pub window: usize,
    /// What there is to connect to, by the path that opens it; anything else is not allowed.
    pub outside: BTreeMap<String, Outside>,
}

/// What the program finds where it connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// A server that sends everything back.
    Echo,
    /// Nothing that could be connected to.
    Nobody(ConnectError),
}

/// One thing that a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptStep {
    /// Connects to a listener.
    Connect {
        /// The client.
        client: u64,
        /// Index of the listener.
        listener: u16,
    },
    /// Sends bytes.
    Send {
        /// The client.
        client: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Shuts its writing side down.
    Finish {
        /// The client.
        client: u64,
    },
    /// Breaks the connection.
    Reset {
        /// The client.
        client: u64,
    },
    /// Does nothing before that many bytes were answered in all, or the answer ended.
    Await {
        /// The client.
        client: u64,
        /// How many.
        bytes: usize,
    },
}

impl Default for Script {
    fn default() -> Self {
        Script {
            steps: Vec::new(),
            window: WINDOW_BYTES,
            outside: BTreeMap::new(),
        }
    }
}

/// The streams that the program opens have numbers from here on; clients have lower ones.
const FIRST_OPENED: u64 = 1 << 32;

/// A [`Network`] whose clients follow a script.
pub struct ScriptedNetwork {
    state: Mutex<State>,
}

struct State {
    steps: VecDeque<ScriptStep>,
    window: usize,
    outside: BTreeMap<String, Outside>,
    /// Streams that the program has opened.
    opened: u64,
    listeners: Vec<Listener>,
    streams: BTreeMap<StreamId, Connection>,
    answers: BTreeMap<u64, Answer>,
    waker: Option<Waker>,
}

/// The program's end of a connection. Its client has the number of the stream.
#[derive(Clone, Default)]
struct Connection {
    /// What the program has opened it to.
    to: Option<(String, Outside)>,
    connecting: bool,
    failed: Option<ConnectError>,
    unread: VecDeque<u8>,
    received: u64,
    written: Vec<u8>,
    acknowledged: u64,
    finished: bool,
    reset: bool,
    read_closed: bool,
    write_closed: bool,
    /// The program has closed it; it goes when all that was written is taken.
    closed: bool,
}

impl ScriptedNetwork {
    /// Clients at the beginning of their script.
    pub fn new(script: Script, listeners: &[String]) -> ScriptedNetwork {
        let listener = |name: &String| Listener {
            name: name.clone(),
            queue: Vec::new(),
        };
        let state = State {
            steps: script.steps.into(),
            window: script.window.max(1),
            outside: script.outside,
            opened: 0,
            listeners: listeners.iter().map(listener).collect(),
            streams: BTreeMap::new(),
            answers: BTreeMap::new(),
            waker: None,
        };
        ScriptedNetwork {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was written, or plays the next step; false if there is nothing to do.
    pub fn advance(&self) -> bool {
        let mut state = self.state();
        let happened = state.take() || state.connect() || state.play();
        let waker = happened.then(|| state.waker.take()).flatten();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        happened
    }

    /// What each client got so far.
    pub fn answers(&self) -> BTreeMap<u64, Answer> {
        let mut state = self.state();
        state.take();
        state.answers.clone()
    }

    /// The streams that there are.
    #[cfg(test)]
    pub(crate) fn streams(&self) -> Vec<StreamId> {
        self.state().streams.keys().copied().collect()
    }

    /// Takes the program's side of all connections over from a snapshot.
    pub fn restore(&self, listeners: &[Listener], streams: &[Stream]) {
        let mut state = self.state();
        state.listeners = listeners.to_vec();
        for stream in streams {
            let connection = state.streams.entry(stream.id).or_default();
            connection.unread = stream.unread.iter().copied().collect();
            connection.received = stream.received;
            connection.written = stream.unacknowledged.clone();
            connection.acknowledged = stream.acknowledged;
            connection.finished = stream.end.is_some();
            connection.reset = stream.reset.is_some();
            connection.read_closed = stream.receive_closed;
            connection.write_closed = stream.send_closed;
            connection.connecting = stream.send_limit == 0;
        }
    }
}

impl Connection {
    /// The server sends back what was written.
    fn echo(&mut self) -> bool {
        let ended = (self.write_closed || self.closed) && !self.finished;
        let happened = ended || !self.written.is_empty();
        let length = self.written.len() as u64;
        self.acknowledged += length;
        let written = self.written.drain(..);
        match self.read_closed {
            true => drop(written),
            false => {
                self.unread.extend(written);
                self.received += length;
            }
        }
        self.finished |= ended;
        happened
    }
}

impl State {
    /// The clients take what was written.
    fn take(&mut self) -> bool {
        let mut taken = false;
        for (id, connection) in &mut self.streams {
            if connection.to.is_some() {
                taken |= connection.echo();
                continue;
            }
            let answer = self.answers.entry(id.0).or_default();
            taken |= !connection.written.is_empty();
            connection.acknowledged += connection.written.len() as u64;
            answer.bytes.append(&mut connection.written);
            answer.ended |= connection.write_closed || connection.closed;
        }
        self.streams.retain(|_, connection| !connection.closed);
        taken
    }

    /// One connection that the program opens is made, or fails.
    fn connect(&mut self) -> bool {
        let mut connections = self.streams.values_mut();
        let Some(connection) = connections.find(|connection| connection.connecting) else {
            return false;
        };
        connection.connecting = false;
        if let Some((_, Outside::Nobody(error))) = connection.to {
            connection.failed = Some(error);
            connection.reset = true;
        }
        true
    }

    /// Plays the next step, unless it must wait.
    fn play(&mut self) -> bool {
        let Some(step) = self.steps.front() else {
            return false;
        };
        if let ScriptStep::Await { client, bytes } = step {
            let answer = self.answers.get(client);
            if !answer.is_some_and(|answer| answer.ended || answer.bytes.len() >= *bytes) {
                return false;
            }
        }
        match self.steps.pop_front() {
            Some(ScriptStep::Connect { client, listener }) => {
                let id = StreamId(client);
                if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
                    self.streams.insert(id, Connection::default());
                    listener.queue.push(id);
                }
            }
            Some(ScriptStep::Send { client, bytes }) => {
                if let Some(connection) = self.streams.get_mut(&StreamId(client))
                    && !connection.read_closed
                {
                    connection.received += bytes.len() as u64;
                    connection.unread.extend(bytes);
                }
            }
            Some(ScriptStep::Finish { client }) => {
                if let Some(connection) = self.streams.get_mut(&StreamId(client)) {
                    connection.finished = true;
                }
            }
            Some(ScriptStep::Reset { client }) => {
                if let Some(connection) = self.streams.get_mut(&StreamId(client)) {
                    connection.reset = true;
                    connection.unread.clear();
                }
            }
            Some(ScriptStep::Await { .. }) | None => {}
        }
        true
    }

    fn open(&mut self, stream: StreamId) -> Option<&mut Connection> {
        let connection = self.streams.get_mut(&stream);
        connection.filter(|connection| !connection.closed)
    }
}

impl Network for ScriptedNetwork {
    fn accept(&self, listener: u16) -> Option<StreamId> {
        let mut state = self.state();
        let queue = &mut state.listeners.get_mut(usize::from(listener))?.queue;
        (!queue.is_empty()).then(|| queue.remove(0))
    }

    fn connect(&self, to: &Destination) -> Result<StreamId, ConnectError> {
        let mut state = self.state();
        let path = to.to_string();
        let outside = *state.outside.get(&path).ok_or(ConnectError::Denied)?;
        let id = StreamId(FIRST_OPENED + state.opened);
        state.opened += 1;
        let connection = Connection {
            to: Some((path, outside)),
            connecting: true,
            ..Connection::default()
        };
        state.streams.insert(id, connection);
        Ok(id)
    }

    fn progress(&self, stream: StreamId) -> Progress {
        match self.state().open(stream) {
            None => Progress::Failed(ConnectError::Reset),
            Some(connection) if connection.connecting => Progress::Connecting,
            Some(connection) if connection.reset => {
                Progress::Failed(connection.failed.unwrap_or(ConnectError::Reset))
            }
            Some(_) => Progress::Connected,
        }
    }

    fn read(&self, stream: StreamId, buffer: &mut [u8], peek: bool) -> Io {
        let mut state = self.state();
        let Some(connection) = state.open(stream) else {
            return Io::Closed;
        };
        if connection.reset {
            return Io::Reset;
        }
        let count = connection.unread.len().min(buffer.len());
        if count == 0 && !buffer.is_empty() && !connection.finished && !connection.read_closed {
            return Io::Blocked;
        }
        for (byte, unread) in buffer.iter_mut().zip(&connection.unread) {
            *byte = *unread;
        }
        if !peek {
            connection.unread.drain(..count);
        }
        Io::Done(count)
    }

    fn write(&self, stream: StreamId, bytes: &[u8]) -> Io {
        let mut state = self.state();
        let window = state.window;
        let Some(connection) = state.open(stream) else {
            return Io::Closed;
        };
        if connection.reset {
            return Io::Reset;
        }
        if connection.write_closed {
            return Io::Closed;
        }
        if connection.connecting {
            return Io::Blocked;
        }
        let count = bytes
            .len()
            .min(window - connection.written.len().min(window));
        if count == 0 && !bytes.is_empty() {
            return Io::Blocked;
        }
        connection.written.extend_from_slice(&bytes[..count]);
        Io::Done(count)
    }

    fn shutdown(&self, stream: StreamId, read: bool, write: bool) {
        if let Some(connection) = self.state().open(stream) {
            connection.read_closed |= read;
            connection.write_closed |= write;
        }
    }

    fn close(&self, stream: StreamId) {
        if let Some(connection) = self.state().open(stream) {
            connection.closed = true;
        }
    }

    fn stream_readiness(&self, stream: StreamId) -> Readiness {
        let mut state = self.state();
        let window = state.window;
        let Some(connection) = state.open(stream) else {
            return Readiness {
                hangup: true,
                writable: 1,
                readable: 0,
            };
        };
        let broken = connection.reset || connection.write_closed;
        let room = match connection.connecting {
            true => 0,
            false => window - connection.written.len().min(window),
        };
        Readiness {
            readable: connection.unread.len() as u64,
            writable: if broken { 1 } else { room as u64 },
            hangup: connection.reset || connection.finished || connection.read_closed,
        }
    }

    fn listener_readiness(&self, listener: u16) -> Readiness {
        let state = self.state();
        let listener = state.listeners.get(usize::from(listener));
        Readiness {
            readable: listener.map_or(0, |listener| listener.queue.len() as u64),
            ..Readiness::default()
        }
    }

    fn register(&self, waker: &Waker) {
        self.state().waker = Some(waker.clone());
    }

    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        let state = self.state();
        let open = state.streams.iter().filter(|(_, it)| !it.closed);
        let stream = |(id, connection): (&StreamId, &Connection)| Stream {
            id: *id,
            anchor: NodeId::default(),
            peer: match &connection.to {
                Some((path, _)) => path.clone(),
                None => format!("client {}", id.0),
            },
            unacknowledged: connection.written.clone(),
            acknowledged: connection.acknowledged,
            send_limit: match connection.connecting {
                true => 0,
                false => connection.acknowledged + state.window as u64,
            },
            send_closed: connection.write_closed,
            unread: connection.unread.iter().copied().collect(),
            received: connection.received,
            end: connection.finished.then_some(connection.received),
            receive_closed: connection.read_closed,
            reset: connection.reset.then_some(ResetReason::ClientGone),
            partner: None,
        };
        (state.listeners.clone(), open.map(stream).collect())
    }

    fn unseal(&self) {}
}
