//! Standard streams: blocking, progress, short counts.

use super::super::abi::{Errno, fdflags};
use super::super::transfer::{Read, Write};
use super::super::waiting::{Blocking, Wait};
use super::{Bench, DATA, OUT, bench};
use crate::ports::Io;

fn told(bench: &Bench, answers: &[Io]) {
    bench.stdio.answers.lock().unwrap().extend(answers);
}

fn nonblocking(bench: &mut Bench, descriptor: u32) {
    let flags = u32::from(fdflags::NONBLOCK);
    bench
        .call(|kernel, guest| kernel.fd_fdstat_set_flags(guest, descriptor, flags))
        .unwrap();
}

#[test]
fn a_read_waits_for_a_byte_and_returns_what_there_is() {
    let mut bench = bench();
    let call = bench.one_buffer(0, 10);
    let mut read = Read::new(call);
    assert_eq!(bench.attempt(&mut read), Ok(Err(Wait::STDIO)));
    told(&bench, &[Io::Done(3)]);
    assert_eq!(bench.attempt(&mut read), Ok(Ok(3)));
    told(&bench, &[Io::Done(0)]);
    assert_eq!(bench.read(0, 10).unwrap(), b"");
    assert_eq!(
        bench.read(0, 0).unwrap(),
        b"",
        "a read of nothing does not wait"
    );
    nonblocking(&mut bench, 0);
    assert_eq!(bench.read(0, 10), Err(Errno::AGAIN));
}

#[test]
fn a_blocking_write_goes_on_until_all_is_written() {
    let mut bench = bench();
    bench.put(DATA, b"0123456789");
    let call = bench.one_buffer(1, 10);
    let mut write = Write::new(call);
    told(&bench, &[Io::Done(4), Io::Blocked, Io::Done(100)]);
    assert_eq!(bench.attempt(&mut write), Ok(Err(Wait::STDIO)));
    assert_eq!(bench.attempt(&mut write), Ok(Err(Wait::STDIO)));
    assert_eq!(bench.attempt(&mut write), Ok(Ok(10)));
    assert_eq!(*bench.stdio.written.lock().unwrap(), b"0123456789");
}

#[test]
fn a_write_that_must_freeze_returns_its_progress_and_only_then() {
    let mut bench = bench();
    bench.put(DATA, b"0123456789");
    let call = bench.one_buffer(1, 10);
    let mut write = Write::new(call);
    let finish = |bench: &mut Bench, write: &mut Write| {
        bench.call(|kernel, guest| write.finish(kernel, guest))
    };
    assert_eq!(finish(&mut bench, &mut write), None);
    told(&bench, &[Io::Done(4)]);
    assert_eq!(bench.attempt(&mut write), Ok(Err(Wait::STDIO)));
    assert_eq!(finish(&mut bench, &mut write), Some(Ok(())));
    assert_eq!(bench.u32(OUT), 4);
}

#[test]
fn a_nonblocking_write_is_short_or_told_to_come_again() {
    let mut bench = bench();
    nonblocking(&mut bench, 1);
    assert_eq!(bench.write(1, b"abc"), Err(Errno::AGAIN));
    told(&bench, &[Io::Done(2)]);
    assert_eq!(bench.write(1, b"abc"), Ok(2));
}

#[test]
fn an_output_that_no_one_reads_is_a_broken_pipe() {
    let mut bench = bench();
    told(&bench, &[Io::Closed]);
    assert_eq!(bench.write(2, b"abc"), Err(Errno::PIPE));
    assert_eq!(bench.write(0, b"abc"), Err(Errno::BADF));
    assert_eq!(bench.read(1, 3), Err(Errno::BADF));
    assert_eq!(bench.read(77, 3), Err(Errno::BADF));
}
