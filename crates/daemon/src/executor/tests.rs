//! The executor as its users see it: nothing is lost, nobody waits behind anybody for long.

use super::task::Standing;
use super::*;
use std::future::poll_fn;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;
use vm::ports::Clock;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

fn executor(workers: usize, most_detached: usize) -> Executor {
    let config = Config {
        workers,
        most_detached,
        slice: Duration::from_millis(1),
        turn: Duration::from_millis(5),
    };
    Executor::new(config).unwrap()
}

fn seed() -> u64 {
    let given = std::env::var("LIMOSA_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("LIMOSA_SEED={seed}");
    seed
}

/// A small generator of numbers that follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Runs a future; its result comes through the channel.
fn run<T: Send + 'static>(
    executor: &Executor,
    traits: Traits,
    future: impl Future<Output = T> + Send + 'static,
) -> Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    executor.spawn(traits, async move {
        let _ = sender.send(future.await);
    });
    receiver
}

fn result<T>(receiver: &Receiver<T>) -> T {
    receiver
        .recv_timeout(PATIENCE)
        .expect("it comes to its end")
}

#[test]
fn a_task_is_queued_once_and_polled_after_every_wake() {
    let first = seed();
    for seed in first..first + 200 {
        let mut random = Random(seed);
        let standing = Standing::new();
        // What the real thing keeps outside: the queue, and whether a poll is under way.
        let (mut queued, mut polled) = (0, false);
        // A wake that no poll has begun after.
        let mut owed = false;
        for step in 0..200 {
            match random.below(3) {
                0 => {
                    queued += u32::from(standing.wake());
                    owed = true;
                }
                1 if queued > 0 && !polled => {
                    queued -= 1;
                    assert!(standing.begin(), "seed {seed}, step {step}");
                    polled = true;
                    owed = false;
                }
                2 if polled => {
                    queued += u32::from(standing.end());
                    polled = false;
                }
                _ => {}
            }
            assert!(
                queued <= 1 && !(queued == 1 && polled),
                "seed {seed}, step {step}"
            );
            assert!(
                !owed || queued == 1 || polled,
                "seed {seed}, step {step}: lost"
            );
        }
        standing.finish();
        assert!(!standing.wake() && !standing.begin() && !standing.end());
    }
}

/// A slot for one value, that a task waits for.
#[derive(Default)]
struct Mailbox(Mutex<(u64, Option<Waker>)>);

impl Mailbox {
    fn put(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn take(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.0 > 0 {
                state.0 -= 1;
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

fn spin_for(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        spin_loop();
    }
}

#[test]
fn no_wake_is_lost_between_tasks_and_threads_that_wake_each_other_and_dawdle() {
    const BOXES: usize = 32;
    const LETTERS: u64 = 400;
    let seed = seed();
    let executor = executor(2, 4);
    let boxes: Arc<Vec<Mailbox>> = Arc::new((0..BOXES).map(|_| Mailbox::default()).collect());
    // Every letter is passed on to a random task until all have passed on enough.
    let passed = Arc::new(AtomicU64::new(0));
    let goal = LETTERS * BOXES as u64;
    let (done, is_done) = mpsc::channel();
    for number in 0..BOXES {
        let (boxes, passed, done) = (boxes.clone(), passed.clone(), done.clone());
        let mut random = Random(seed ^ (number as u64) << 32);
        executor.spawn(Traits::default(), async move {
            loop {
                boxes[number].take().await;
                match random.below(100) {
                    0 => spin_for(Duration::from_millis(2)),
                    1..10 => yield_now().await,
                    _ => {}
                }
                if passed.fetch_add(1, Ordering::Relaxed) + 1 == goal {
                    let _ = done.send(());
                }
                let next = random.below(BOXES as u64) as usize;
                if passed.load(Ordering::Relaxed) < goal {
                    if random.below(200) == 0 {
                        // From a thread that the executor does not know.
                        let boxes = boxes.clone();
                        std::thread::spawn(move || boxes[next].put());
                    } else {
                        boxes[next].put();
                    }
                }
            }
        });
    }
    for number in 0..8 {
        boxes[number].put();
    }
    result(&is_done);
}

#[test]
fn who_computes_for_ever_keeps_nobody_waiting() {
    let executor = executor(1, 64);
    let stop = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = (0..8)
        .map(|_| {
            let stop = stop.clone();
            run(&executor, Traits::default(), async move {
                while !stop.load(Ordering::Relaxed) {
                    spin_loop();
                }
            })
        })
        .collect();
    // The one worker's role must have gone round all of them before this one runs.
    result(&run(&executor, Traits::default(), async {}));
    assert!(executor.activity().handovers >= 8, "{executor:?}");
    assert_eq!(executor.activity().detached, 8);
    stop.store(true, Ordering::Relaxed);
    hogs.iter().for_each(result);
}

#[test]
fn at_the_bound_long_runners_take_turns_and_the_others_do_not_wait() {
    let executor = executor(1, 2);
    let hogs = 6;
    let stop = Arc::new(AtomicBool::new(false));
    let turns: Arc<Vec<AtomicUsize>> = Arc::new((0..hogs).map(|_| AtomicUsize::new(0)).collect());
    let ends: Vec<_> = (0..hogs)
        .map(|number| {
            let asked = Arc::new(AtomicBool::new(false));
            let (stop, turns, wanted) = (stop.clone(), turns.clone(), asked.clone());
            let traits = Traits {
                yields: Some(Box::new(move || wanted.store(true, Ordering::Relaxed))),
                ..Traits::default()
            };
            run(&executor, traits, async move {
                while !stop.load(Ordering::Relaxed) {
                    turns[number].fetch_add(1, Ordering::Relaxed);
                    while !asked.swap(false, Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                        spin_loop();
                    }
                    yield_now().await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    while turns.iter().any(|turns| turns.load(Ordering::Relaxed) < 5) {
        result(&run(&executor, Traits::default(), async {}));
        assert!(executor.activity().detached <= 2);
        assert!(
            start.elapsed() < PATIENCE,
            "some get no turn: {turns:?}, {executor:?}"
        );
    }
    assert!(executor.activity().asked_to_yield >= 6 * 4);
    stop.store(true, Ordering::Relaxed);
    ends.iter().for_each(result);
}

#[test]
fn a_weight_holds_while_the_task_runs_alone_and_not_for_what_its_thread_does_later() {
    let normal = weight::own_nice();
    let executor = executor(1, 8);
    let traits = Traits {
        weight: Weight::try_from(10).unwrap(),
        ..Traits::default()
    };
    let slow = run(&executor, traits, async move {
        let start = Instant::now();
        while weight::own_nice() == normal && start.elapsed() < PATIENCE {
            spin_loop();
        }
        weight::own_nice()
    });
    assert_eq!(result(&slow), (normal + 10).min(19));
    for _ in 0..100 {
        // Two at once, so that more than one thread is asked.
        let both =
            [(); 2].map(|()| run(&executor, Traits::default(), async { weight::own_nice() }));
        assert!(both.iter().all(|nice| result(nice) == normal));
    }
}

#[test]
fn ten_thousand_tasks_that_wait_cost_no_thread_and_each_wakes_when_told() {
    let executor = executor(2, 16);
    let boxes: Arc<Vec<Mailbox>> = Arc::new((0..10_000).map(|_| Mailbox::default()).collect());
    let (done, is_done) = mpsc::channel();
    for number in 0..boxes.len() {
        let (boxes, done) = (boxes.clone(), done.clone());
        executor.spawn(Traits::default(), async move {
            boxes[number].take().await;
            let _ = done.send(number);
        });
    }
    result(&run(&executor, Traits::default(), async {}));
    assert!(executor.activity().threads <= 2 + 8 + 1, "{executor:?}");
    boxes.iter().for_each(Mailbox::put);
    let mut woken: Vec<usize> = boxes.iter().map(|_| result(&is_done)).collect();
    woken.sort_unstable();
    assert!(woken.into_iter().eq(0..boxes.len()));
}

#[test]
fn a_fault_in_one_task_ends_only_that() {
    let executor = executor(1, 2);
    let faulty = run(&executor, Traits::default(), async {
        panic!("a fault that this test wants");
    });
    assert!(faulty.recv_timeout(PATIENCE).is_err());
    result(&run(&executor, Traits::default(), async {}));
}

#[test]
fn futures_end_with_the_executor_also_the_one_that_runs() {
    let executor = executor(1, 2);
    let (gone, is_gone) = mpsc::channel();
    struct Tell(mpsc::Sender<&'static str>, &'static str);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }
    let tell = Tell(gone.clone(), "waits");
    executor.spawn(Traits::default(), async move {
        let _tell = tell;
        std::future::pending::<()>().await;
    });
    let (asked, tell) = (Arc::new(AtomicBool::new(false)), Tell(gone.clone(), "runs"));
    let wanted = asked.clone();
    let traits = Traits {
        yields: Some(Box::new(move || wanted.store(true, Ordering::Relaxed))),
        ..Traits::default()
    };
    let (runs, does_run) = mpsc::channel();
    executor.spawn(traits, async move {
        let _tell = tell;
        let _ = runs.send(());
        while !asked.load(Ordering::Relaxed) {
            spin_loop();
        }
        yield_now().await;
        unreachable!("the executor has ended");
    });
    result(&does_run);
    drop(executor);
    let mut told = [result(&is_gone), result(&is_gone)];
    told.sort_unstable();
    assert_eq!(told, ["runs", "waits"]);
}

#[test]
fn a_deadline_wakes_not_before_it_has_come_and_the_latest_said_counts() {
    let executor = executor(1, 2);
    let clock = Arc::new(executor.clock());
    let reaches = |from_now_ns: &'static [u64]| {
        let clock = clock.clone();
        let mut deadline = 0;
        run(&executor, Traits::default(), async move {
            let start = clock.monotonic_ns();
            poll_fn(|context| {
                let now = clock.monotonic_ns();
                if deadline != 0 && now >= deadline {
                    return Poll::Ready(());
                }
                for away in from_now_ns {
                    deadline = start + away;
                    clock.wake_at(deadline, context.waker());
                }
                Poll::Pending
            })
            .await;
            clock.monotonic_ns() - start
        })
    };
    assert!(result(&reaches(&[3_000_000])) >= 3_000_000);
    assert!(result(&reaches(&[1_000_000, 5_000_000])) >= 5_000_000);
    // An hour would be longer than the test's patience.
    assert!(result(&reaches(&[3_600_000_000_000, 2_000_000])) >= 2_000_000);
    // The monitor has gone to sleep by then, or not: either way it wakes.
    for _ in 0..3 {
        assert!(result(&reaches(&[80_000_000])) >= 80_000_000);
    }
}

#[test]
fn what_a_poll_has_used_is_counted_for_it_and_time_between_polls_is_not() {
    let before = usage::begin();
    spin_for(Duration::from_millis(5));
    let after = usage::end();
    let own = Instant::now();
    assert!(after.cpu_ns > before.cpu_ns && after.thread != 0);
    // The next poll begins where this one has ended, unless the thread has paused.
    assert_eq!(usage::begin().cpu_ns, after.cpu_ns);
    usage::pause();
    while own.elapsed() < Duration::from_millis(1) {
        spin_loop();
    }
    assert!(usage::begin().cpu_ns > after.cpu_ns);
    let thread = after.thread;
    let seen = std::thread::spawn(move || usage::cpu_ns_of(thread))
        .join()
        .unwrap();
    assert!(seen.unwrap() >= after.cpu_ns);
    // Not a thread of this OS process.
    assert_eq!(usage::cpu_ns_of(1), None);
}
