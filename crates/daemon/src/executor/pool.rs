//! The threads and who does what: queues, roles, and the one lock around them.
//!
//! ```text
//!  thread:  worker --poll outlasts a slice--> detached --poll ends--> spare --a role is free--> worker
//!                                                 ^                     | enough of them
//!                                                 +--takes a tired one  +--> ends
//! ```
//! There are always as many threads in the role of a worker as was said, if the system gives
//! threads at all. Every other thread is detached, and held by one poll, or spare.

use super::task::Task;
use super::timers::Timers;
use super::{Config, usage, weight};
use crate::accounts::parallelism::Parallelism;
use rustix::process::Pid;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Threads that are kept although they have nothing to do.
const SPARE: usize = 8;

/// What an executor is doing, and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    /// Threads that poll what is ready.
    pub workers: usize,
    /// All its threads.
    pub threads: usize,
    /// Threads held by a process that outran its slice.
    pub detached: usize,
    /// Tasks that are being polled.
    pub running: usize,
    /// Tasks that are ready and wait for a thread.
    pub ready: usize,
    /// Polls so far.
    pub polls: u64,
    /// Times that a worker's role went to another thread.
    pub handovers: u64,
    /// Times that a process was asked to yield.
    pub asked_to_yield: u64,
    /// How many run at once.
    pub parallelism: f64,
    /// Runnable tasks, on average over 1, 5 and 15 minutes.
    pub load: [f64; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Worker,
    Detached,
    Spare,
}

/// What one thread is at.
struct Seat {
    role: Role,
    thread: Pid,
    poll: Option<Polling>,
    /// Its nice value less that of the node, 0 unless it is detached.
    nice: i32,
}

/// A poll that is under way.
struct Polling {
    task: Arc<Task>,
    since: Instant,
    asked: bool,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Task>>,
    /// Each waits for a detached thread.
    tired: VecDeque<Arc<Task>>,
    seats: HashMap<u64, Seat>,
    next_seat: u64,
    workers: usize,
    /// Workers that wait for something to be ready and have not been called; and calls that no
    /// worker has answered yet.
    idle: usize,
    calls: usize,
    detached: usize,
    spare: usize,
    /// Threads that were asked for and do not run yet.
    starting: usize,
    running: usize,
    /// All that are not over.
    tasks: HashMap<u64, Arc<Task>>,
    polls: u64,
    handovers: u64,
    asked_to_yield: u64,
    parallelism: Parallelism,
    stopping: bool,
}

impl State {
    fn note_running(&mut self, now: Instant) {
        self.parallelism.running(now, self.running);
    }

    fn runnable(&self) -> usize {
        self.running + self.ready.len() + self.tired.len()
    }
}

/// See the module's documentation.
pub(super) struct Pool {
    this: Weak<Pool>,
    config: Config,
    /// The nice value of the thread that made the executor: what the node's owner wants of all.
    nice: i32,
    timers: Arc<Timers>,
    state: Mutex<State>,
    /// Idle workers wait here.
    work: Condvar,
    /// Spare threads wait here.
    roles: Condvar,
    ids: AtomicU64,
    /// Whether the system's refusal of a nice value, or of a thread, was said.
    said: AtomicBool,
}

impl Pool {
    /// Starts the workers.
    pub(super) fn start(config: Config, timers: &Arc<Timers>) -> io::Result<Arc<Pool>> {
        let config = Config {
            workers: config.workers.max(1),
            most_detached: config.most_detached.max(1),
            ..config
        };
        let pool = Arc::new_cyclic(|this| Pool {
            this: this.clone(),
            config,
            nice: weight::own_nice(),
            timers: timers.clone(),
            state: Mutex::default(),
            work: Condvar::new(),
            roles: Condvar::new(),
            ids: AtomicU64::new(0),
            said: AtomicBool::new(false),
        });
        for _ in 0..config.workers {
            pool.add_thread()?;
        }
        Ok(pool)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread more. It takes whatever role is free once it runs.
    fn add_thread(&self) -> io::Result<()> {
        let Some(pool) = self.this.upgrade() else {
            return Ok(());
        };
        self.state().starting += 1;
        let thread = std::thread::Builder::new().name("limosa-worker".to_owned());
        let spawned = thread.spawn(move || pool.serve());
        if spawned.is_err() {
            self.state().starting -= 1;
        }
        spawned.map(drop)
    }

    /// How long a poll may hold a worker.
    pub(super) fn slice(&self) -> Duration {
        self.config.slice
    }

    // Tasks.

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Lists a task that begins. False if there is no beginning any more.
    pub(super) fn enrol(&self, id: u64, task: &Arc<Task>) -> bool {
        let mut state = self.state();
        if !state.stopping {
            state.tasks.insert(id, task.clone());
        }
        !state.stopping
    }

    /// Lists a task no more.
    pub(super) fn strike_off(&self, id: u64) {
        let task = self.state().tasks.remove(&id);
        // Not under the lock: it may be the last to hold it.
        drop(task);
    }

    /// Puts a task that is ready into the queue, or before all others.
    pub(super) fn push(&self, task: Arc<Task>, urgent: bool) {
        let mut state = self.state();
        if urgent {
            state.ready.push_front(task);
        } else {
            state.ready.push_back(task);
        }
        self.call_a_worker(state);
    }

    /// Wakes an idle worker, if there is one.
    fn call_a_worker(&self, mut state: MutexGuard<'_, State>) {
        if state.idle > 0 {
            state.idle -= 1;
            state.calls += 1;
            drop(state);
            self.work.notify_one();
        }
    }

    // Threads.

    /// A thread's life.
    fn serve(&self) {
        let seat = self.sit_down();
        let mut polled: Option<(Arc<Task>, bool)> = None;
        while let Some(task) = self.next(seat, polled.take()) {
            let again = task.poll();
            polled = Some((task, again));
        }
    }

    fn sit_down(&self) -> u64 {
        let mut state = self.state();
        let seat = state.next_seat;
        state.next_seat += 1;
        state.starting -= 1;
        state.spare += 1;
        let taken = Seat {
            role: Role::Spare,
            thread: rustix::thread::gettid(),
            poll: None,
            nice: 0,
        };
        state.seats.insert(seat, taken);
        seat
    }

    /// Ends the poll that this thread was in, if it was, and gives it the next task; none if the
    /// thread is to end.
    fn next(&self, seat: u64, polled: Option<(Arc<Task>, bool)>) -> Option<Arc<Task>> {
        let mut state = self.state();
        if let Some((task, again)) = polled {
            state.running -= 1;
            let mut detached = false;
            if let Some(seat) = state.seats.get_mut(&seat) {
                seat.poll = None;
                detached = seat.role == Role::Detached;
            }
            let tired = task.tired.swap(false, Ordering::Relaxed);
            match (again, tired) {
                _ if state.stopping => {
                    drop(state);
                    task.cancel();
                    state = self.state();
                }
                (true, true) => state.tired.push_back(task),
                (true, false) => {
                    state.ready.push_back(task);
                    // A worker will take it itself, or something that was called for before.
                    if detached && state.idle > 0 {
                        state.idle -= 1;
                        state.calls += 1;
                        self.work.notify_one();
                    }
                }
                (false, _) => drop(task),
            }
        }
        loop {
            if state.stopping {
                return self.leave(state, seat);
            }
            let role = state.seats.get(&seat).map_or(Role::Spare, |seat| seat.role);
            let task = match role {
                Role::Worker => state.ready.pop_front(),
                Role::Detached => state.tired.pop_front(),
                Role::Spare => None,
            };
            if let Some(task) = task {
                self.begin(&mut state, seat, task.clone());
                return Some(task);
            }
            state = match role {
                Role::Worker => self.wait_for_work(state),
                Role::Detached => {
                    state.detached -= 1;
                    state.spare += 1;
                    let restored = self.set_nice(&mut state, seat, 0);
                    set_role(&mut state, seat, Role::Spare);
                    if !restored {
                        // It may not become a worker: it would be a slow one.
                        return self.leave(state, seat);
                    }
                    state
                }
                Role::Spare if state.workers < self.config.workers => {
                    state.spare -= 1;
                    state.workers += 1;
                    set_role(&mut state, seat, Role::Worker);
                    state
                }
                Role::Spare if self.may_detach(&state) && !state.tired.is_empty() => {
                    state.spare -= 1;
                    state.detached += 1;
                    set_role(&mut state, seat, Role::Detached);
                    state
                }
                Role::Spare if state.spare > SPARE => return self.leave(state, seat),
                Role::Spare => {
                    self.note_pause(&mut state);
                    let waited = self.roles.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn may_detach(&self, state: &State) -> bool {
        state.detached < self.config.most_detached
    }

    fn begin(&self, state: &mut State, seat: u64, task: Arc<Task>) {
        let now = Instant::now();
        state.running += 1;
        state.polls += 1;
        state.note_running(now);
        let weight = task.traits.weight;
        if let Some(seat) = state.seats.get_mut(&seat) {
            seat.poll = Some(Polling {
                task,
                since: now,
                asked: false,
            });
        }
        let detached = |seat: &Seat| seat.role == Role::Detached;
        if state.seats.get(&seat).is_some_and(detached) {
            self.set_nice(state, seat, weight.nice());
        }
        self.timers.polls_begin();
    }

    /// Waits as an idle worker until it is called, or all is over.
    fn wait_for_work<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.idle += 1;
        self.note_pause(&mut state);
        loop {
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            if state.calls > 0 {
                state.calls -= 1;
                return state;
            }
            if state.stopping {
                state.idle -= 1;
                return state;
            }
        }
    }

    /// This thread stops polling for a while.
    fn note_pause(&self, state: &mut State) {
        state.note_running(Instant::now());
        usage::pause();
    }

    /// Whether the thread of this seat has that nice value now, relative to the node's.
    fn set_nice(&self, state: &mut State, seat: u64, nice: i32) -> bool {
        let Some(seat) = state.seats.get_mut(&seat) else {
            return false;
        };
        if seat.nice == nice {
            return true;
        }
        match weight::set_nice(seat.thread, self.nice + nice) {
            Ok(()) => seat.nice = nice,
            Err(error) => {
                if nice != 0 && !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        nice,
                        %error,
                        "the system does not let threads have this nice value, so CPU weights \
                         above 100 count as 100; CAP_SYS_NICE allows it"
                    );
                }
            }
        }
        seat.nice == nice
    }

    fn leave(&self, mut state: MutexGuard<'_, State>, seat: u64) -> Option<Arc<Task>> {
        let now = Instant::now();
        state.note_running(now);
        match state.seats.remove(&seat).map(|seat| seat.role) {
            Some(Role::Worker) => state.workers -= 1,
            Some(Role::Detached) => state.detached -= 1,
            Some(Role::Spare) => state.spare -= 1,
            None => {}
        }
        None
    }

    // The monitor's part.

    /// Looks at every poll that is under way, and hands over the roles of those that take long.
    /// Whether there is any poll, or a role that a thread should take and none has.
    pub(super) fn watch(&self, now: Instant) -> bool {
        let mut state = self.state();
        let asked = self.look(&mut state, now);
        let mut wanted = self.config.workers.saturating_sub(state.workers);
        wanted += state
            .tired
            .len()
            .min(self.config.most_detached.saturating_sub(state.detached));
        let more = wanted.saturating_sub(state.spare + state.starting);
        // A role that nobody has yet must be looked after, though nothing is polled.
        let busy = state.running > 0 || wanted > 0;
        let (spare, stopping) = (state.spare, state.stopping);
        drop(state);
        for task in asked {
            if let Some(yields) = &task.traits.yields {
                yields();
            }
        }
        if stopping {
            return false;
        }
        for _ in 0..wanted.min(spare) {
            self.roles.notify_one();
        }
        for _ in 0..more {
            if let Err(error) = self.add_thread() {
                if !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the system gives no more threads");
                }
                break;
            }
        }
        busy
    }

    /// Detaches the workers whose polls outlast a slice. Returns the tasks that are to be asked to
    /// yield.
    fn look(&self, state: &mut State, now: Instant) -> Vec<Arc<Task>> {
        let Config { slice, turn, .. } = self.config;
        let mut room = self.config.most_detached.saturating_sub(state.detached);
        let mut waiting = state.tired.len();
        let (mut detached, mut asked) = (Vec::new(), Vec::new());
        for (number, seat) in &mut state.seats {
            let Some(poll) = seat.poll.as_mut() else {
                continue;
            };
            let lasts = now.saturating_duration_since(poll.since);
            match seat.role {
                Role::Worker if lasts >= slice && room > 0 => {
                    room -= 1;
                    seat.role = Role::Detached;
                    detached.push((*number, poll.task.traits.weight.nice()));
                }
                Role::Worker if lasts >= slice && !poll.asked => {
                    poll.asked = true;
                    asked.push(poll.task.clone());
                }
                Role::Detached if lasts >= turn && waiting > 0 && !poll.asked => {
                    waiting -= 1;
                    poll.asked = true;
                    asked.push(poll.task.clone());
                }
                _ => {}
            }
        }
        state.workers -= detached.len();
        state.detached += detached.len();
        state.handovers += detached.len() as u64;
        for (seat, nice) in detached {
            self.set_nice(state, seat, nice);
        }
        state.asked_to_yield += asked.len() as u64;
        for task in &asked {
            task.tired.store(true, Ordering::Relaxed);
        }
        asked
    }

    /// What it is doing.
    pub(super) fn activity(&self) -> Activity {
        let mut state = self.state();
        state.note_running(Instant::now());
        Activity {
            workers: state.workers,
            threads: state.seats.len(),
            detached: state.detached,
            running: state.running,
            ready: state.ready.len() + state.tired.len(),
            polls: state.polls,
            handovers: state.handovers,
            asked_to_yield: state.asked_to_yield,
            parallelism: state.parallelism.average(),
            load: self.timers.load(Instant::now(), state.runnable()),
        }
    }

    /// Runnable tasks.
    pub(super) fn runnable(&self) -> usize {
        self.state().runnable()
    }

    /// Ends threads and futures: at once, or after the poll that they are in.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        state.ready.clear();
        state.tired.clear();
        let tasks: Vec<Arc<Task>> = state.tasks.values().cloned().collect();
        drop(state);
        self.work.notify_all();
        self.roles.notify_all();
        for task in tasks {
            if !task.cancel()
                && let Some(yields) = &task.traits.yields
            {
                yields();
            }
        }
    }
}

fn set_role(state: &mut State, seat: u64, role: Role) {
    if let Some(seat) = state.seats.get_mut(&seat) {
        seat.role = role;
    }
}
