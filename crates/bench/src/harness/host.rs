//! The smallest host that the measured guests need: WASI preview 1, without anything behind it.
//!
//! It is the same for plain and freezable modules: it never blocks, so no call of it ever freezes,
//! and what differs between the two runs is guest code alone. Only `bench.pause` freezes, the call
//! that [the depth bench](crate::freeze) makes at the bottom of its recursion.

use super::traffic::{LISTENER, Traffic};
use std::time::Instant;
use wasmtime::{Caller, Engine, ExternType, Func, Global, Linker, Memory, Module, Val};

const SUCCESS: i32 = 0;
const AGAIN: i32 = 6;
const BAD_DESCRIPTOR: i32 = 8;
const FAULT: i32 = 21;
const INVALID: i32 = 28;
const NOT_SUPPORTED: i32 = 52;

/// Preview 1 puts the type of a descriptor into one byte: these are a terminal and a socket.
const CHARACTER_DEVICE: u8 = 2;
const SOCKET_STREAM: u8 = 6;

/// Subscriptions are 48 bytes, events 32. Tags: 0 a clock, 1 reading, 2 writing.
const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
const READ_TAG: u8 = 1;
const WRITE_TAG: u8 = 2;

/// Module and name of the only call that freezes.
pub(crate) const PAUSE: [&str; 2] = ["bench", "pause"];

/// The guest left through `proc_exit`.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(crate) struct Exit(pub i32);

/// For the depth bench: what happened at the call at the bottom of the recursion.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Observer {
    /// The next `bench.pause` freezes.
    pub freeze: bool,
    /// When `bench.pause` was called last.
    pub called: Option<Instant>,
}

/// The state of the host for one guest; it goes on with the guest when that is thawed elsewhere.
pub(crate) struct Host {
    /// The guest's memory.
    pub memory: Option<Memory>,
    /// The guest's "frozen" mark, if it is freezable.
    pub frozen: Option<Global>,
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// What it wrote to standard output and error.
    pub output: Vec<u8>,
    /// Its clients, if it is a server.
    pub traffic: Option<Traffic>,
    /// See there.
    pub observer: Observer,
    clock: u64,
}

impl Host {
    /// A host for a guest with these arguments, environment and clients.
    pub fn new(args: Vec<String>, env: Vec<String>, traffic: Option<Traffic>) -> Host {
        Host {
            memory: None,
            frozen: None,
            args,
            env,
            output: Vec::new(),
            traffic,
            observer: Observer::default(),
            clock: 1_700_000_000_000_000_000,
        }
    }
}

/// Why a call fails: an error number of preview 1.
type Errno = i32;
type Answer = Result<(), Errno>;

/// The guest's memory, with checked access.
struct View<'a>(&'a mut [u8]);

impl View<'_> {
    fn bytes(&mut self, at: u32, length: u32) -> Result<&mut [u8], Errno> {
        let (at, length) = (at as usize, length as usize);
        let end = at.checked_add(length).ok_or(FAULT)?;
        self.0.get_mut(at..end).ok_or(FAULT)
    }

    fn read<const N: usize>(&mut self, at: u32) -> Result<[u8; N], Errno> {
        let mut copy = [0; N];
        copy.copy_from_slice(self.bytes(at, N as u32)?);
        Ok(copy)
    }

    fn u32(&mut self, at: u32) -> Result<u32, Errno> {
        Ok(u32::from_le_bytes(self.read(at)?))
    }

    fn put(&mut self, at: u32, bytes: &[u8]) -> Answer {
        self.bytes(at, bytes.len() as u32)?.copy_from_slice(bytes);
        Ok(())
    }

    fn put_u32(&mut self, at: u32, value: u32) -> Answer {
        self.put(at, &value.to_le_bytes())
    }

    /// Entry `index` of a list of (address, length) pairs.
    fn vector(&mut self, list: u32, index: u32) -> Result<(u32, u32), Errno> {
        let at = list.wrapping_add(index.wrapping_mul(8));
        Ok((self.u32(at)?, self.u32(at.wrapping_add(4))?))
    }
}

/// Splits a caller into the guest's memory and the host's state for the length of a call.
fn call(
    mut caller: Caller<'_, Host>,
    body: impl FnOnce(&mut View<'_>, &mut Host) -> Answer,
) -> i32 {
    let Some(memory) = caller.data().memory else {
        return FAULT;
    };
    let (bytes, host) = memory.data_and_store_mut(&mut caller);
    match body(&mut View(bytes), host) {
        Ok(()) => SUCCESS,
        Err(number) => number,
    }
}

/// Writes a list of texts as preview 1 does arguments and environment: addresses, then contents.
fn put_texts(guest: &mut View<'_>, texts: &[String], mut list: u32, mut content: u32) -> Answer {
    for text in texts {
        guest.put_u32(list, content)?;
        guest.put(content, text.as_bytes())?;
        guest.put(content.wrapping_add(text.len() as u32), &[0])?;
        content = content.wrapping_add(text.len() as u32 + 1);
        list = list.wrapping_add(4);
    }
    Ok(())
}

fn put_sizes(guest: &mut View<'_>, texts: &[String], count: u32, size: u32) -> Answer {
    let bytes: usize = texts.iter().map(|text| text.len() + 1).sum();
    guest.put_u32(count, texts.len() as u32)?;
    guest.put_u32(size, bytes as u32)
}

/// The functions that a module may import, for any number of instances of it. What else it imports
/// answers "not supported".
pub(crate) fn linker(engine: &Engine, module: &Module) -> Result<Linker<Host>, wasmtime::Error> {
    let mut linker = Linker::new(engine);
    linker.allow_shadowing(false);
    process(&mut linker)?;
    descriptors(&mut linker)?;
    sockets(&mut linker)?;
    linker.func_wrap(PAUSE[0], PAUSE[1], |mut caller: Caller<'_, Host>| {
        let frozen = caller.data().frozen;
        let observer = &mut caller.data_mut().observer;
        observer.called = Some(Instant::now());
        match (observer.freeze, frozen) {
            (true, Some(global)) => global.set(&mut caller, Val::I32(1)),
            _ => Ok(()),
        }
    })?;
    for import in module.imports() {
        let ExternType::Func(kind) = import.ty() else {
            continue;
        };
        let number = kind.results().len() == 1 && kind.results().all(|kind| kind.is_i32());
        if !number || defined(&linker, &import) {
            continue;
        }
        linker.func_new(import.module(), import.name(), kind, |_, _, results| {
            results.fill(Val::I32(NOT_SUPPORTED));
            Ok(())
        })?;
    }
    Ok(linker)
}

fn defined(linker: &Linker<Host>, import: &wasmtime::ImportType<'_>) -> bool {
    let mut store = wasmtime::Store::new(linker.engine(), Host::new(vec![], vec![], None));
    let found: Option<Func> = linker
        .get(&mut store, import.module(), import.name())
        .ok()
        .and_then(wasmtime::Extern::into_func);
    found.is_some()
}

const WASI: &str = "wasi_snapshot_preview1";

fn process(linker: &mut Linker<Host>) -> Result<(), wasmtime::Error> {
    linker.func_wrap(
        WASI,
        "args_sizes_get",
        |c: Caller<'_, Host>, count: u32, size: u32| {
            call(c, |guest, host| put_sizes(guest, &host.args, count, size))
        },
    )?;
    linker.func_wrap(
        WASI,
        "args_get",
        |c: Caller<'_, Host>, list: u32, content: u32| {
            call(c, |guest, host| put_texts(guest, &host.args, list, content))
        },
    )?;
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |c: Caller<'_, Host>, count: u32, size: u32| {
            call(c, |guest, host| put_sizes(guest, &host.env, count, size))
        },
    )?;
    linker.func_wrap(
        WASI,
        "environ_get",
        |c: Caller<'_, Host>, list: u32, content: u32| {
            call(c, |guest, host| put_texts(guest, &host.env, list, content))
        },
    )?;
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |c: Caller<'_, Host>, _id: u32, _precision: u64, at: u32| {
            call(c, |guest, host| {
                host.clock += 1000;
                guest.put(at, &host.clock.to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(
        WASI,
        "proc_exit",
        |code: i32| -> Result<(), wasmtime::Error> { Err(Exit(code).into()) },
    )?;
    Ok(())
}

fn descriptors(linker: &mut Linker<Host>) -> Result<(), wasmtime::Error> {
    linker.func_wrap(
        WASI,
        "fd_write",
        |c: Caller<'_, Host>, descriptor: u32, list: u32, count: u32, result: u32| {
            call(c, |guest, host| {
                if !(1..=2).contains(&descriptor) {
                    return Err(BAD_DESCRIPTOR);
                }
                let mut written = 0;
                for index in 0..count {
                    let (at, length) = guest.vector(list, index)?;
                    host.output.extend_from_slice(guest.bytes(at, length)?);
                    written += length;
                }
                guest.put_u32(result, written)
            })
        },
    )?;
    linker.func_wrap(
        WASI,
        "fd_fdstat_get",
        |c: Caller<'_, Host>, descriptor: u32, at: u32| {
            call(c, |guest, host| {
                let kind = match (descriptor, &host.traffic) {
                    (0..=2, _) => CHARACTER_DEVICE,
                    (LISTENER, Some(_)) => SOCKET_STREAM,
                    (_, Some(traffic)) if traffic.is_connection(descriptor) => SOCKET_STREAM,
                    _ => return Err(BAD_DESCRIPTOR),
                };
                // Type, flags, and all rights.
                let mut status = [0xff; 24];
                status[..8].copy_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
                guest.put(at, &status)
            })
        },
    )?;
    linker.func_wrap(WASI, "fd_fdstat_set_flags", |_: u32, _: u32| SUCCESS)?;
    linker.func_wrap(WASI, "fd_close", |_: u32| SUCCESS)?;
    linker.func_wrap(WASI, "fd_prestat_get", |_: u32, _: u32| BAD_DESCRIPTOR)?;
    Ok(())
}

fn sockets(linker: &mut Linker<Host>) -> Result<(), wasmtime::Error> {
    linker.func_wrap(
        WASI,
        "sock_accept",
        |c: Caller<'_, Host>, descriptor: u32, _flags: u32, result: u32| {
            call(c, |guest, host| {
                let traffic = host.traffic.as_mut().ok_or(BAD_DESCRIPTOR)?;
                if descriptor != LISTENER {
                    return Err(BAD_DESCRIPTOR);
                }
                guest.put_u32(result, traffic.accept().ok_or(AGAIN)?)
            })
        },
    )?;
    linker.func_wrap(
        WASI,
        "sock_recv",
        |c: Caller<'_, Host>,
         descriptor: u32,
         list: u32,
         count: u32,
         _flags: u32,
         size: u32,
         flags: u32| {
            call(c, |guest, host| {
                let traffic = host.traffic.as_mut().ok_or(BAD_DESCRIPTOR)?;
                if count == 0 {
                    return Err(INVALID);
                }
                let (at, length) = guest.vector(list, 0)?;
                let count = traffic
                    .read(descriptor, guest.bytes(at, length)?)
                    .ok_or(AGAIN)?;
                guest.put_u32(size, count as u32)?;
                guest.put(flags, &[0, 0])
            })
        },
    )?;
    linker.func_wrap(
        WASI,
        "sock_send",
        |c: Caller<'_, Host>, descriptor: u32, list: u32, count: u32, _flags: u32, size: u32| {
            call(c, |guest, host| {
                let traffic = host.traffic.as_mut().ok_or(BAD_DESCRIPTOR)?;
                let mut sent = 0;
                for index in 0..count {
                    let (at, length) = guest.vector(list, index)?;
                    sent += traffic.write(descriptor, guest.bytes(at, length)?);
                }
                guest.put_u32(size, sent as u32)
            })
        },
    )?;
    linker.func_wrap(WASI, "sock_shutdown", |_: u32, _: u32| SUCCESS)?;
    linker.func_wrap(
        WASI,
        "poll_oneoff",
        |c: Caller<'_, Host>, subscriptions: u32, events: u32, count: u32, result: u32| {
            call(c, |guest, host| {
                let traffic = host.traffic.as_ref().ok_or(NOT_SUPPORTED)?;
                let mut ready = 0;
                for index in 0..count {
                    let at = subscriptions.wrapping_add(index.wrapping_mul(SUBSCRIPTION_BYTES));
                    let subscription: [u8; SUBSCRIPTION_BYTES as usize] = guest.read(at)?;
                    let [tag, ..] = subscription[8..] else {
                        return Err(INVALID);
                    };
                    let mut word = [0; 4];
                    word.copy_from_slice(&subscription[16..20]);
                    let descriptor = u32::from_le_bytes(word);
                    let bytes = match tag {
                        READ_TAG => traffic.readable(descriptor),
                        WRITE_TAG => 1 << 16,
                        _ => 0,
                    };
                    if bytes == 0 {
                        continue;
                    }
                    // User data, error 0, tag, then the number of bytes.
                    let mut event = [0; EVENT_BYTES as usize];
                    event[..8].copy_from_slice(&subscription[..8]);
                    event[10] = tag;
                    event[16..24].copy_from_slice(&(bytes as u64).to_le_bytes());
                    guest.put(events.wrapping_add(ready * EVENT_BYTES), &event)?;
                    ready += 1;
                }
                // Nothing to wait for would wait for ever: the script is at fault, or the guest.
                if ready == 0 {
                    return Err(INVALID);
                }
                guest.put_u32(result, ready)
            })
        },
    )?;
    Ok(())
}
