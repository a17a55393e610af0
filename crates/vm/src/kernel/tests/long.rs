//! Calls that could take long: they work in pieces, and a freeze that is asked for is not kept
//! waiting. What a program makes the kernel hold is bounded and comes back.

use super::super::abi::{EVENT_BYTES, Errno, PIECE_BYTES, SUBSCRIPTION_BYTES, oflags, rights};
use super::super::context::RandomGet;
use super::super::files::{Allocate, ReadDirectory};
use super::super::poll::PollOneoff;
use super::super::transfer::{Read, Write};
use super::super::waiting::{Blocking, Wait};
use super::{Bench, DATA, OUT, PATH, ROOT_DIRECTORY, bench, bench_with};
use crate::torture::Script;
use wire::snapshot::{CHUNK_BYTES, Limits, Pending};

const CREATE: u32 = oflags::CREAT;

fn bench_with_memory(bytes: usize) -> Bench {
    let mut bench = bench();
    bench.memory = vec![1; bytes];
    bench
}

fn ask_to_freeze(bench: &Bench) {
    bench.kernel.control.control().freeze();
}

#[test]
fn a_long_transfer_is_short_only_when_a_freeze_is_asked_for() {
    let mut bench = bench_with_memory(4 * PIECE_BYTES);
    let length = 3 * PIECE_BYTES as u32 - 5;
    let file = bench.open(b"f", CREATE).unwrap();
    let call = bench.one_buffer(file, length);
    assert_eq!(bench.attempt(&mut Write::new(call)), Ok(Ok(length)));
    assert_eq!(bench.stat(b"f", true).unwrap().3, u64::from(length));
    let read_at = |bench: &mut Bench| {
        bench
            .call(|kernel, guest| kernel.fd_pread(guest, call, 0))
            .unwrap();
        bench.u32(OUT)
    };
    assert_eq!(read_at(&mut bench), length);
    ask_to_freeze(&bench);
    assert_eq!(read_at(&mut bench), PIECE_BYTES as u32);
    bench
        .call(|kernel, guest| kernel.fd_pwrite(guest, call, 0))
        .unwrap();
    assert_eq!(bench.u32(OUT), PIECE_BYTES as u32);
    let seek = |bench: &mut Bench| {
        bench
            .call(|kernel, guest| kernel.fd_seek(guest, file, 0, 0, OUT))
            .unwrap();
    };
    seek(&mut bench);
    let piece = PIECE_BYTES as u32;
    assert_eq!(bench.attempt(&mut Read::new(call)), Ok(Ok(piece)));
    seek(&mut bench);
    assert_eq!(bench.attempt(&mut Write::new(call)), Ok(Ok(piece)));
}

#[test]
fn entropy_is_drawn_in_pieces_and_none_of_it_twice() {
    let mut bench = bench_with_memory(400_000);
    let mut call = RandomGet::new(0, 300_000);
    let turn = |bench: &mut Bench, call: &mut RandomGet| {
        let step = bench.call(|kernel, guest| call.attempt(kernel, guest));
        matches!(step.unwrap(), super::Step::Block(Wait { turn: true, .. }))
    };
    assert!(turn(&mut bench, &mut call));
    assert!(turn(&mut bench, &mut call));
    bench.call(|kernel, _| call.freeze(kernel));
    let filled = bench.memory.iter().take_while(|byte| **byte == 0).count();
    assert_eq!(
        bench.kernel.pending,
        Some(Pending::Random {
            filled: filled as u32
        })
    );
    bench.memory[..filled].fill(2);
    // Issued again, and frozen before it could begin: nothing is lost.
    let mut again = RandomGet::new(0, 300_000);
    bench.call(|kernel, _| again.freeze(kernel));
    let mut again = RandomGet::new(0, 300_000);
    while turn(&mut bench, &mut again) {}
    assert!(bench.memory[..filled].iter().all(|byte| *byte == 2));
    assert!(bench.memory[filled..300_000].iter().all(|byte| *byte == 0));
    assert!(bench.memory[300_000..].iter().all(|byte| *byte == 1));
}

#[test]
fn a_large_directory_is_listed_over_several_turns() {
    let mut bench = bench_with_memory(1 << 20);
    for number in 0..2500 {
        bench
            .make_directory(format!("{number}").as_bytes())
            .unwrap();
    }
    let mut call = ReadDirectory {
        descriptor: ROOT_DIRECTORY,
        buffer: DATA,
        length: 500_000,
        out: OUT,
        cookie: 0,
        used: 0,
    };
    let mut turns = 0;
    let used = loop {
        match bench.attempt(&mut call).unwrap() {
            Ok(used) => break used,
            Err(wait) => assert!(wait.turn),
        }
        turns += 1;
    };
    assert_eq!(turns, 2);
    let digits: u32 = (0..2500)
        .map(|number| format!("{number}").len() as u32)
        .sum();
    assert_eq!(used, 24 * 2502 + digits + 3);
}

#[test]
fn room_for_a_file_is_taken_in_pieces_and_all_or_nothing() {
    let limits = Limits {
        file_bytes: 6 << 20,
        ..Limits::default()
    };
    let mut bench = bench_with(Script::default(), limits);
    let file = bench.open(b"f", CREATE).unwrap();
    bench.write(file, &[7; 100]).unwrap();
    let mut call = Allocate {
        descriptor: file,
        offset: 10,
        length: 4 << 20,
        begun: None,
    };
    let mut turns = 0;
    while bench.attempt(&mut call).unwrap().is_err() {
        turns += 1;
    }
    assert_eq!(turns, 3);
    assert_eq!(bench.stat(b"f", true).unwrap().3, (4 << 20) + 10);
    let used = bench.kernel.tree.used();
    assert!(used > 4 << 20);
    assert_eq!(bench.allocate(file, 5 << 20, 3 << 20), Err(Errno::NOSPC));
    assert_eq!(bench.stat(b"f", true).unwrap().3, (4 << 20) + 10);
    assert_eq!(bench.kernel.tree.used(), bench.kernel.tree.recount());
    assert_eq!(bench.read(file, 100).unwrap(), vec![0; 100]);
}

#[test]
fn a_poll_of_thousands_makes_way_for_a_freeze() {
    let count = 1u32 << 14;
    let mut bench = bench_with_memory(2 << 20);
    let mut subscription = [0; SUBSCRIPTION_BYTES as usize];
    subscription[16..20].copy_from_slice(&1u32.to_le_bytes());
    subscription[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    bench.put(DATA, &subscription.repeat(count as usize));
    let mut poll = PollOneoff {
        subscriptions: DATA,
        events: DATA + count * SUBSCRIPTION_BYTES,
        count,
        out: OUT,
        deadlines: None,
    };
    assert!(poll.events + count * EVENT_BYTES < 2 << 20);
    let wait = bench.attempt(&mut poll).unwrap().unwrap_err();
    assert!(!wait.turn && wait.deadline_ns.is_some());
    ask_to_freeze(&bench);
    assert!(bench.attempt(&mut poll).unwrap().unwrap_err().turn);
}

#[test]
fn what_a_large_file_leaves_is_freed_little_by_little_or_when_room_is_wanted() {
    let limits = Limits {
        file_bytes: 10 << 20,
        ..Limits::default()
    };
    let mut bench = bench_with(Script::default(), limits);
    let empty = bench.kernel.tree.used();
    let fill = |bench: &mut Bench| {
        let file = bench.open(b"f", CREATE).unwrap();
        bench.allocate(file, 0, 8 << 20).unwrap();
        bench.unlink(b"f").unwrap();
        bench.close(file).unwrap();
    };
    fill(&mut bench);
    let after = bench.kernel.tree.used();
    assert!(after > 8 << 20, "all of it was freed at once");
    bench.kernel.completed();
    let freed = after - bench.kernel.tree.used();
    assert!(freed > 0 && freed < 2 << 20, "{freed} bytes were freed");
    // Nobody hears that there is no room for want of freeing.
    fill(&mut bench);
    let calls = (8 << 20) / CHUNK_BYTES;
    (0..calls).for_each(|_| bench.kernel.completed());
    assert_eq!(bench.kernel.tree.used(), empty);
    assert_eq!(bench.kernel.tree.used(), bench.kernel.tree.recount());
}

#[test]
fn bytes_far_apart_cost_what_they_take() {
    let limits = Limits {
        file_bytes: 100_000,
        ..Limits::default()
    };
    let mut bench = bench_with(Script::default(), limits);
    let file = bench.open(b"f", CREATE).unwrap();
    bench.put(DATA, b"x");
    let call = bench.one_buffer(file, 1);
    let written = (0..10_000u64).take_while(|number| {
        let offset = number * CHUNK_BYTES as u64;
        let write = bench.call(|kernel, guest| kernel.fd_pwrite(guest, call, offset));
        assert!(matches!(write, Ok(()) | Err(Errno::NOSPC)));
        write.is_ok()
    });
    let written = written.count();
    assert!((100..1000).contains(&written), "{written}");
}

#[test]
fn links_that_lead_far_and_directories_that_lie_deep_are_given_up() {
    let mut bench = bench();
    bench.make_directory(b"d").unwrap();
    // A path may be as long as paths can be.
    let long = [b"d/../".repeat(800), b"d".to_vec()].concat();
    bench.stat(&long, true).unwrap();
    let target = [b"d/../".repeat(800), b"next".to_vec()].concat();
    for name in 0..4 {
        let mut target = target.clone();
        target.truncate(target.len() - 4);
        target.extend(format!("{}", name + 1).into_bytes());
        bench
            .symlink(&target, format!("{name}").as_bytes())
            .unwrap();
    }
    bench.make_directory(b"4").unwrap();
    bench.stat(b"3", true).unwrap();
    bench.stat(b"2", true).unwrap();
    assert_eq!(bench.stat(b"0", true), Err(Errno::LOOP));
    // Far below where any path leads.
    let mut deepest = ROOT_DIRECTORY;
    for _ in 0..4100 {
        let (path, length) = bench.put(PATH, b"x");
        bench
            .call(|kernel, guest| kernel.path_create_directory(guest, deepest, path, length))
            .unwrap();
        let open = super::Open {
            directory: deepest,
            lookup: 0,
            path,
            path_length: length,
            flags: oflags::DIRECTORY,
            rights_base: rights::DIRECTORY,
            rights_inheriting: rights::DIRECTORY,
            fdflags: 0,
            out: OUT,
        };
        bench
            .call(|kernel, guest| kernel.path_open(guest, open))
            .unwrap();
        let opened = bench.u32(OUT);
        if deepest != ROOT_DIRECTORY {
            bench.close(deepest).unwrap();
        }
        deepest = opened;
    }
    let (path, length) = bench.put(PATH, b"d");
    let moved = bench.call(|kernel, guest| {
        let (from, to) = ((ROOT_DIRECTORY, path, length), (deepest, path, length));
        kernel.path_rename(guest, from, to)
    });
    assert_eq!(moved, Err(Errno::NAMETOOLONG));
}
