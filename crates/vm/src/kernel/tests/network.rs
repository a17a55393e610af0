//! Listeners and connections.

use super::super::abi::{Errno, fdflags, filetype};
use super::super::sockets::{Accept, Receive, Send};
use super::super::transfer::Read;
use super::super::waiting::{Blocking, Wait};
use super::{Bench, DATA, LISTENER, OUT, ROOT_DIRECTORY, bench_with};
use crate::torture::{Script, ScriptStep};
use wire::snapshot::Limits;

fn bench(steps: Vec<ScriptStep>) -> Bench {
    let script = Script {
        steps,
        window: 8,
        ..Script::default()
    };
    let bench = bench_with(script, Limits::default());
    while bench.network.advance() {}
    bench
}

fn connect(client: u64) -> ScriptStep {
    ScriptStep::Connect {
        client,
        listener: 0,
    }
}

fn send(client: u64, bytes: &[u8]) -> ScriptStep {
    let bytes = bytes.to_vec();
    ScriptStep::Send { client, bytes }
}

fn accept(bench: &mut Bench, descriptor: u32, flags: u32) -> Result<Result<u32, Wait>, Errno> {
    bench.attempt(&mut Accept {
        descriptor,
        flags,
        out: OUT,
    })
}

fn receive(
    bench: &mut Bench,
    descriptor: u32,
    length: u32,
    flags: u32,
) -> Result<Result<Vec<u8>, Wait>, Errno> {
    let call = bench.one_buffer(descriptor, length);
    let count = bench.attempt(&mut Receive::new(call, flags, OUT + 8))?;
    Ok(count.map(|count| bench.memory[DATA as usize..(DATA + count) as usize].to_vec()))
}

const NONBLOCK: u32 = fdflags::NONBLOCK as u32;

fn nonblocking(bench: &mut Bench, descriptor: u32) {
    bench
        .call(|kernel, guest| kernel.fd_fdstat_set_flags(guest, descriptor, NONBLOCK))
        .unwrap();
}

#[test]
fn accept_gives_connections_in_order_and_waits_for_more() {
    let mut bench = bench(vec![connect(1), connect(2)]);
    assert_eq!(accept(&mut bench, LISTENER, 0), Ok(Ok(5)));
    assert_eq!(accept(&mut bench, LISTENER, NONBLOCK), Ok(Ok(6)));
    assert_eq!(accept(&mut bench, LISTENER, 0), Ok(Err(Wait::NETWORK)));
    nonblocking(&mut bench, LISTENER);
    assert_eq!(accept(&mut bench, LISTENER, 0), Err(Errno::AGAIN));
    assert_eq!(accept(&mut bench, LISTENER, 1), Err(Errno::INVAL));
    assert_eq!(accept(&mut bench, 5, 0), Err(Errno::INVAL));
    assert_eq!(accept(&mut bench, ROOT_DIRECTORY, 0), Err(Errno::NOTSOCK));
    assert_eq!(accept(&mut bench, 99, 0), Err(Errno::BADF));
    // The second was accepted as non-blocking, the first not.
    assert_eq!(bench.read(6, 1), Err(Errno::AGAIN));
    let call = bench.one_buffer(5, 1);
    assert_eq!(bench.attempt(&mut Read::new(call)), Ok(Err(Wait::NETWORK)));
    for descriptor in [LISTENER, 5] {
        bench
            .call(|kernel, guest| kernel.fd_fdstat_get(guest, descriptor, OUT))
            .unwrap();
        assert_eq!(bench.memory[OUT as usize], filetype::SOCKET_STREAM);
    }
}

#[test]
fn accept_takes_no_connection_when_descriptors_have_run_out() {
    let mut bench = bench(vec![connect(1)]);
    bench.kernel.limits.descriptors = 5;
    assert_eq!(accept(&mut bench, LISTENER, 0), Err(Errno::MFILE));
    bench.kernel.limits.descriptors = 6;
    assert_eq!(accept(&mut bench, LISTENER, 0), Ok(Ok(5)));
}

#[test]
fn receive_peeks_waits_for_all_and_sees_the_end() {
    let mut bench = bench(vec![connect(1), send(1, b"abc")]);
    accept(&mut bench, LISTENER, 0).unwrap().unwrap();
    assert_eq!(receive(&mut bench, 5, 2, 1), Ok(Ok(b"ab".to_vec())));
    assert_eq!(receive(&mut bench, 5, 2, 0), Ok(Ok(b"ab".to_vec())));
    let call = bench.one_buffer(5, 4);
    let mut all = Receive::new(call, 2, OUT + 8);
    assert_eq!(bench.attempt(&mut all), Ok(Err(Wait::NETWORK)));
    let finished = bench.call(|kernel, guest| all.finish(kernel, guest));
    assert_eq!((finished, bench.u32(OUT)), (Some(Ok(())), 1));
    assert_eq!(receive(&mut bench, 5, 2, 4), Err(Errno::INVAL));
    assert_eq!(receive(&mut bench, 1, 2, 0), Err(Errno::NOTSOCK));
    assert_eq!(receive(&mut bench, LISTENER, 2, 0), Err(Errno::NOTCONN));
}

#[test]
fn a_half_closed_connection_ends_for_reading_and_still_takes_answers() {
    let mut bench = bench(vec![
        connect(1),
        send(1, b"x"),
        ScriptStep::Finish { client: 1 },
    ]);
    accept(&mut bench, LISTENER, 0).unwrap().unwrap();
    assert_eq!(bench.read(5, 10).unwrap(), b"x");
    assert_eq!(bench.read(5, 10).unwrap(), b"");
    assert_eq!(bench.write(5, b"answer"), Ok(6));
    let shutdown = |bench: &mut Bench, descriptor, how| {
        bench.call(|kernel, guest| kernel.sock_shutdown(guest, descriptor, how))
    };
    assert_eq!(shutdown(&mut bench, 5, 0), Err(Errno::INVAL));
    assert_eq!(shutdown(&mut bench, 5, 4), Err(Errno::INVAL));
    assert_eq!(shutdown(&mut bench, LISTENER, 1), Err(Errno::NOTCONN));
    assert_eq!(shutdown(&mut bench, 0, 1), Err(Errno::NOTSOCK));
    assert_eq!(shutdown(&mut bench, 5, 2), Ok(()));
    assert_eq!(bench.write(5, b"more"), Err(Errno::PIPE));
    bench.close(5).unwrap();
    let answer = bench.network.answers().remove(&1).unwrap();
    assert_eq!((answer.bytes, answer.ended), (b"answer".to_vec(), true));
}

#[test]
fn a_full_window_blocks_and_keeps_the_progress() {
    let mut bench = bench(vec![connect(1)]);
    accept(&mut bench, LISTENER, 0).unwrap().unwrap();
    bench.put(DATA, b"0123456789");
    let call = bench.one_buffer(5, 10);
    let mut whole = Send::new(call, 0);
    assert_eq!(bench.attempt(&mut whole), Ok(Err(Wait::NETWORK)));
    assert!(bench.network.advance());
    assert_eq!(bench.attempt(&mut whole), Ok(Ok(10)));
    nonblocking(&mut bench, 5);
    assert_eq!(bench.write(5, b"0123456789"), Ok(6));
    assert_eq!(bench.write(5, b"0123456789"), Err(Errno::AGAIN));
    let bad = bench.one_buffer(5, 10);
    assert_eq!(bench.attempt(&mut Send::new(bad, 1)), Err(Errno::INVAL));
}

#[test]
fn a_broken_connection_is_an_error_for_reader_and_writer() {
    let mut bench = bench(vec![
        connect(1),
        send(1, b"x"),
        ScriptStep::Reset { client: 1 },
    ]);
    accept(&mut bench, LISTENER, 0).unwrap().unwrap();
    assert_eq!(bench.read(5, 10), Err(Errno::CONNRESET));
    assert_eq!(bench.write(5, b"x"), Err(Errno::CONNRESET));
    assert_eq!(bench.close(5), Ok(()));
    assert_eq!(bench.read(5, 10), Err(Errno::BADF));
}
