//! Connections that the program opens.

use super::super::abi::{Errno, fdflags, filetype, oflags, rights};
use super::super::files::Open;
use super::super::outgoing::OpenPath;
use super::super::waiting::{Blocking, Wait};
use super::super::{Kernel, KernelError};
use super::{Bench, OUT, PATH, ROOT_DIRECTORY, bench_with};
use crate::account::Meter;
use crate::memory::Budget;
use crate::ports::{ConnectError, Network};
use crate::torture::{Outside, Script};
use std::sync::Arc;
use wire::StreamId;
use wire::snapshot::{Limits, Pending};

const ECHO: &[u8] = b"net/tcp/echo/7";
const CLOSED: &[u8] = b"net/tcp/closed/7";

fn bench() -> Bench {
    let nobody = Outside::Nobody(ConnectError::Refused);
    let outside = [("echo", Outside::Echo), ("closed", nobody)];
    let outside = outside.map(|(host, outside)| (format!("/net/tcp/{host}/7"), outside));
    let script = Script {
        outside: outside.into(),
        ..Script::default()
    };
    bench_with(script, Limits::default())
}

fn call(bench: &mut Bench, path: &[u8], fdflags: u16) -> OpenPath {
    let (path, path_length) = bench.put(PATH, path);
    OpenPath::new(Open {
        directory: ROOT_DIRECTORY,
        lookup: 1,
        path,
        path_length,
        flags: 0,
        rights_base: rights::ALL,
        rights_inheriting: 0,
        fdflags: fdflags.into(),
        out: OUT,
    })
}

#[test]
fn opening_waits_for_the_connection_and_gives_a_socket() {
    let mut bench = bench();
    let mut open = call(&mut bench, ECHO, 0);
    assert_eq!(bench.attempt(&mut open), Ok(Err(Wait::NETWORK)));
    assert!(bench.network.advance());
    assert_eq!(bench.attempt(&mut open), Ok(Ok(5)));
    bench
        .call(|kernel, guest| kernel.fd_fdstat_get(guest, 5, OUT))
        .unwrap();
    assert_eq!(bench.memory[OUT as usize], filetype::SOCKET_STREAM);
    assert_eq!(bench.write(5, b"hello"), Ok(5));
    while bench.network.advance() {}
    assert_eq!(bench.read(5, 10).unwrap(), b"hello");
    let shut = bench.call(|kernel, guest| kernel.sock_shutdown(guest, 5, 2));
    assert_eq!(shut, Ok(()));
    while bench.network.advance() {}
    assert_eq!(bench.read(5, 10).unwrap(), b"");
    assert_eq!(bench.close(5), Ok(()));
}

#[test]
fn a_call_that_freezes_goes_on_waiting_for_the_same_connection() {
    let mut bench = bench();
    let mut open = call(&mut bench, ECHO, 0);
    assert_eq!(bench.attempt(&mut open), Ok(Err(Wait::NETWORK)));
    bench.call(|kernel, _| open.freeze(kernel));
    let stream = match bench.kernel.pending {
        Some(Pending::Connect { stream }) => stream,
        ref other => panic!("{other:?}"),
    };
    // Frozen again before the first attempt, it keeps that.
    let mut again = call(&mut bench, ECHO, 0);
    bench.call(|kernel, _| again.freeze(kernel));
    assert_eq!(bench.kernel.pending, Some(Pending::Connect { stream }));
    assert_eq!(bench.attempt(&mut again), Ok(Err(Wait::NETWORK)));
    while bench.network.advance() {}
    assert_eq!(bench.attempt(&mut again), Ok(Ok(5)));
    assert_eq!(bench.kernel.socket(5), Ok(stream));
}

#[test]
fn what_cannot_be_opened_says_why_and_leaves_nothing() {
    let mut bench = bench();
    let mut open = call(&mut bench, CLOSED, 0);
    assert_eq!(bench.attempt(&mut open), Ok(Err(Wait::NETWORK)));
    while bench.network.advance() {}
    assert_eq!(bench.attempt(&mut open), Err(Errno::CONNREFUSED));
    assert_eq!(bench.open(b"net/tcp/other/7", 0), Err(Errno::ACCES));
    assert_eq!(bench.open(b"net/tcp/echo/x", 0), Err(Errno::NOENT));
    assert_eq!(bench.open(ECHO, oflags::DIRECTORY), Err(Errno::NOTDIR));
    let exclusive = oflags::CREAT | oflags::EXCL;
    assert_eq!(bench.open(ECHO, exclusive), Err(Errno::EXIST));
    // Another path of these words is a file's.
    assert_eq!(bench.open(b"net/tcp/echo", 0), Err(Errno::NOENT));
    bench.kernel.limits.descriptors = 5;
    assert_eq!(bench.open(ECHO, 0), Err(Errno::MFILE));
    // None of them left a stream.
    while bench.network.advance() {}
    assert!(bench.network.streams().is_empty());
}

#[test]
fn opened_not_to_block_it_can_be_written_once_it_is_connected() {
    let mut bench = bench();
    let mut open = call(&mut bench, ECHO, fdflags::NONBLOCK);
    assert_eq!(bench.attempt(&mut open), Ok(Ok(5)));
    assert_eq!(bench.write(5, b"x"), Err(Errno::AGAIN));
    assert_eq!(bench.read(5, 1), Err(Errno::AGAIN));
    while bench.network.advance() {}
    assert_eq!(bench.write(5, b"x"), Ok(1));
    let mut open = call(&mut bench, CLOSED, fdflags::NONBLOCK);
    assert_eq!(bench.attempt(&mut open), Ok(Ok(6)));
    while bench.network.advance() {}
    assert_eq!(bench.write(6, b"x"), Err(Errno::CONNREFUSED));
    assert_eq!(bench.read(6, 1), Err(Errno::CONNREFUSED));
}

#[test]
fn only_what_was_asked_for_can_be_done_with_it() {
    let mut bench = bench();
    let mut open = call(&mut bench, ECHO, fdflags::NONBLOCK);
    open.ask_for(rights::FD_READ);
    assert_eq!(bench.attempt(&mut open), Ok(Ok(5)));
    while bench.network.advance() {}
    assert_eq!(bench.write(5, b"x"), Err(Errno::BADF));
}

#[test]
fn a_snapshot_whose_call_waits_for_a_stream_that_is_not_its_own_is_refused() {
    let load = |pending, streams: &[u64], socket: bool| {
        let mut bench = bench();
        for _ in streams {
            let mut open = call(&mut bench, ECHO, fdflags::NONBLOCK);
            bench.attempt(&mut open).unwrap().unwrap();
        }
        let mut state = bench.kernel.state();
        (state.listeners, state.streams) = bench.network.seal();
        state.pending = Some(Pending::Connect { stream: pending });
        if !socket {
            state.descriptors.retain(|number, _| *number < 5);
        }
        let meter = Meter::new(0, 0, Arc::new(Budget::new(0)));
        Kernel::load(state, bench.kernel.ports.clone(), Arc::default(), meter).err()
    };
    let stream = StreamId(1 << 32);
    let missing = KernelError::Opening { stream };
    assert_eq!(load(stream, &[], false), Some(missing));
    let shared = KernelError::SharedStream { stream };
    assert_eq!(load(stream, &[1], true), Some(shared));
    assert_eq!(load(stream, &[1], false), None);
}
