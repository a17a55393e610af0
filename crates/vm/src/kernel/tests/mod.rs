//! The kernel alone, without any program: calls with pointers into a memory of our own.

mod long;
mod model;
mod network;
mod outgoing;
mod paths;
mod poll;
mod streams;
mod volumes;

use super::abi::{Call, Errno, rights};
use super::files::{Allocate, Open, ReadDirectory};
use super::guest::{Guest, u32_at, u64_at};
use super::outgoing::OpenPath;
use super::transfer::{Read, Vectored, Write};
use super::waiting::{Blocking, Step, Wait};
use super::{Kernel, newborn};
use crate::account::Meter;
use crate::memory::Budget;
use crate::ports::{Clock, Io, Ports, Stdio};
use crate::torture::{Script, ScriptedNetwork};
use crate::volumes::Volume;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use wire::snapshot::{Limits, Listener};

/// Where arguments, results and data lie in the memory.
const PATH: u32 = 0x100;
const OTHER_PATH: u32 = 0x2000;
const LIST: u32 = 0x4000;
const OUT: u32 = 0x5000;
const DATA: u32 = 0x8000;
const DATA_BYTES: u32 = 0x8000;
/// The descriptor of the root directory, after one listener.
const LISTENER: u32 = 3;
const ROOT_DIRECTORY: u32 = 4;

/// A clock that stands where it is put.
#[derive(Default)]
struct StoppedClock {
    now_ns: Mutex<u64>,
    deadline_ns: Mutex<Option<u64>>,
}

impl Clock for StoppedClock {
    fn realtime_ns(&self) -> u64 {
        1_000_000_000_000 + *self.now_ns.lock().unwrap()
    }
    fn monotonic_ns(&self) -> u64 {
        *self.now_ns.lock().unwrap()
    }
    fn wake_at(&self, deadline_ns: u64, _: &Waker) {
        *self.deadline_ns.lock().unwrap() = Some(deadline_ns);
    }
}

/// Standard streams that do what they are told, one answer per call.
#[derive(Default)]
struct ToldStdio {
    answers: Mutex<VecDeque<Io>>,
    written: Mutex<Vec<u8>>,
}

impl Stdio for ToldStdio {
    fn read(&self, buffer: &mut [u8]) -> Io {
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.unwrap_or(Io::Blocked);
        if let Io::Done(count) = answer {
            buffer[..count].fill(b'i');
        }
        answer
    }
    fn readable(&self) -> bool {
        !self.answers.lock().unwrap().is_empty()
    }
    fn write(&self, _: u32, bytes: &[u8]) -> Io {
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.unwrap_or(Io::Blocked);
        if let Io::Done(count) = answer {
            let taken = &bytes[..count.min(bytes.len())];
            self.written.lock().unwrap().extend_from_slice(taken);
            return Io::Done(taken.len());
        }
        answer
    }
    fn register(&self, _: &Waker) {}
}

/// A kernel and the memory it is called with.
struct Bench {
    kernel: Kernel,
    memory: Vec<u8>,
    clock: Arc<StoppedClock>,
    stdio: Arc<ToldStdio>,
    network: Arc<ScriptedNetwork>,
    /// The directory that paths start from.
    base: u32,
}

fn bench_with(script: Script, limits: Limits) -> Bench {
    bench_with_volumes(script, limits, Vec::new())
}

fn bench_with_volumes(script: Script, limits: Limits, volumes: Vec<Volume>) -> Bench {
    let clock = Arc::new(StoppedClock::default());
    let stdio = Arc::new(ToldStdio::default());
    let network = Arc::new(ScriptedNetwork::new(script, &["first".to_owned()]));
    let ports = Ports {
        clock: clock.clone(),
        stdio: stdio.clone(),
        network: network.clone(),
        entropy: Ports::nothing().entropy,
        volumes: volumes.into(),
    };
    let names: Vec<Vec<u8>> = ports
        .volumes
        .iter()
        .map(|volume| volume.description.destination.clone().into_bytes())
        .collect();
    let state = wire::snapshot::Kernel {
        args: vec![b"program".to_vec(), b"x".to_vec()],
        descriptors: (0..).zip(newborn(1, &[b"/".to_vec()], &names)).collect(),
        listeners: vec![Listener {
            name: "first".to_owned(),
            queue: Vec::new(),
        }],
        limits,
        ..wire::snapshot::Kernel::default()
    };
    let meter = Meter::new(0, 0, Arc::new(Budget::new(0)));
    let kernel = Kernel::load(state, ports, Arc::default(), meter).unwrap();
    Bench {
        kernel,
        memory: vec![0; 0x10000],
        clock,
        stdio,
        network,
        base: ROOT_DIRECTORY,
    }
}

fn bench() -> Bench {
    bench_with(Script::default(), Limits::default())
}

impl Bench {
    fn call<T>(&mut self, call: impl FnOnce(&mut Kernel, &mut Guest<'_>) -> T) -> T {
        call(&mut self.kernel, &mut Guest::new(&mut self.memory))
    }

    fn put(&mut self, at: u32, bytes: &[u8]) -> (u32, u32) {
        self.memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        (at, bytes.len() as u32)
    }

    fn u32(&self, at: u32) -> u32 {
        u32_at(&self.memory, at as usize)
    }

    fn u64(&self, at: u32) -> u64 {
        u64_at(&self.memory, at as usize)
    }

    /// A list of one buffer.
    fn one_buffer(&mut self, descriptor: u32, length: u32) -> Vectored {
        let list = [DATA.to_le_bytes(), length.to_le_bytes()].concat();
        self.put(LIST, &list);
        Vectored {
            descriptor,
            list: LIST,
            count: 1,
            out: OUT,
        }
    }

    /// Attempts a call that may block: a number on success.
    fn attempt(&mut self, call: &mut impl Blocking) -> Call<Result<u32, Wait>> {
        let step = self.call(|kernel, guest| call.attempt(kernel, guest))?;
        Ok(match step {
            Step::Done => Ok(self.u32(OUT)),
            Step::Block(wait) => Err(wait),
        })
    }

    fn read(&mut self, descriptor: u32, length: u32) -> Call<Vec<u8>> {
        let call = self.one_buffer(descriptor, length);
        let count = self.attempt(&mut Read::new(call))?.expect("it blocks");
        Ok(self.memory[DATA as usize..(DATA + count) as usize].to_vec())
    }

    fn write(&mut self, descriptor: u32, bytes: &[u8]) -> Call<u32> {
        self.put(DATA, bytes);
        let call = self.one_buffer(descriptor, bytes.len() as u32);
        Ok(self.attempt(&mut Write::new(call))?.expect("it blocks"))
    }

    fn open_with(
        &mut self,
        path: &[u8],
        flags: u32,
        rights_base: u64,
        follow: bool,
        fdflags: u32,
    ) -> Call<u32> {
        let (path, path_length) = self.put(PATH, path);
        let open = Open {
            directory: self.base,
            lookup: follow.into(),
            path,
            path_length,
            flags,
            rights_base,
            rights_inheriting: rights::ALL,
            fdflags,
            out: OUT,
        };
        Ok(self.attempt(&mut OpenPath::new(open))?.expect("it blocks"))
    }

    fn open(&mut self, path: &[u8], flags: u32) -> Call<u32> {
        self.open_with(path, flags, rights::ALL, true, 0)
    }

    fn close(&mut self, descriptor: u32) -> Call {
        self.call(|kernel, guest| kernel.fd_close(guest, descriptor))
    }

    fn make_directory(&mut self, path: &[u8]) -> Call {
        let (path, length) = self.put(PATH, path);
        let base = self.base;
        self.call(|kernel, guest| kernel.path_create_directory(guest, base, path, length))
    }

    fn remove_directory(&mut self, path: &[u8]) -> Call {
        let (path, length) = self.put(PATH, path);
        let base = self.base;
        self.call(|kernel, guest| kernel.path_remove_directory(guest, base, path, length))
    }

    fn unlink(&mut self, path: &[u8]) -> Call {
        let (path, length) = self.put(PATH, path);
        let base = self.base;
        self.call(|kernel, guest| kernel.path_unlink_file(guest, base, path, length))
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> Call {
        let (from, from_length) = self.put(PATH, from);
        let (to, to_length) = self.put(OTHER_PATH, to);
        let directory = self.base;
        self.call(|kernel, guest| {
            let (from, to) = ((directory, from, from_length), (directory, to, to_length));
            kernel.path_rename(guest, from, to)
        })
    }

    fn link(&mut self, from: &[u8], to: &[u8]) -> Call {
        let (from, from_length) = self.put(PATH, from);
        let (to, to_length) = self.put(OTHER_PATH, to);
        let directory = self.base;
        self.call(|kernel, guest| {
            let (from, to) = ((directory, from, from_length), (directory, to, to_length));
            kernel.path_link(guest, 0, from, to)
        })
    }

    fn symlink(&mut self, target: &[u8], path: &[u8]) -> Call {
        let target = self.put(PATH, target);
        let path = self.put(OTHER_PATH, path);
        let base = self.base;
        self.call(|kernel, guest| kernel.path_symlink(guest, target, base, path))
    }

    fn read_link(&mut self, path: &[u8], length: u32) -> Call<Vec<u8>> {
        let path = self.put(PATH, path);
        let base = self.base;
        self.call(|kernel, guest| kernel.path_readlink(guest, base, path, (DATA, length), OUT))?;
        let count = self.u32(OUT);
        Ok(self.memory[DATA as usize..(DATA + count) as usize].to_vec())
    }

    /// (inode, type, links, size) of a path.
    fn stat(&mut self, path: &[u8], follow: bool) -> Call<(u64, u8, u64, u64)> {
        let path = self.put(PATH, path);
        let base = self.base;
        self.call(|kernel, guest| {
            kernel.path_filestat_get(guest, base, follow.into(), path, DATA)
        })?;
        let filetype = self.memory[DATA as usize + 16];
        let (links, size) = (self.u64(DATA + 24), self.u64(DATA + 32));
        Ok((self.u64(DATA + 8), filetype, links, size))
    }

    fn allocate(&mut self, descriptor: u32, offset: u64, length: u64) -> Call {
        let mut call = Allocate {
            descriptor,
            offset,
            length,
            begun: None,
        };
        while let Err(wait) = self.attempt(&mut call)? {
            assert!(wait.turn);
        }
        Ok(())
    }

    /// Bytes of the entries that follow a cookie.
    fn list_once(&mut self, descriptor: u32, length: u32, cookie: u64) -> Call<u32> {
        let mut call = ReadDirectory {
            descriptor,
            buffer: DATA,
            length,
            out: OUT,
            cookie,
            used: 0,
        };
        loop {
            match self.attempt(&mut call)? {
                Ok(used) => return Ok(used),
                Err(wait) => assert!(wait.turn),
            }
        }
    }

    /// The names in a directory, read through a buffer of `length` bytes.
    fn list(&mut self, descriptor: u32, length: u32) -> Call<Vec<Vec<u8>>> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let used = self.list_once(descriptor, length, cookie)?;
            let (mut at, end) = (DATA, DATA + used);
            while end - at >= 24 {
                let name_length = self.u32(at + 16);
                if end - at - 24 < name_length {
                    break;
                }
                cookie = self.u64(at);
                let name = (at + 24) as usize..(at + 24 + name_length) as usize;
                names.push(self.memory[name].to_vec());
                at += 24 + name_length;
            }
            if used < length {
                return Ok(names);
            }
        }
    }
}

#[test]
fn arguments_are_laid_out_as_the_standard_says() {
    let mut bench = bench();
    bench
        .call(|kernel, guest| kernel.args_sizes_get(guest, OUT, OUT + 4))
        .unwrap();
    assert_eq!((bench.u32(OUT), bench.u32(OUT + 4)), (2, 10));
    bench
        .call(|kernel, guest| kernel.args_get(guest, OUT, DATA))
        .unwrap();
    assert_eq!((bench.u32(OUT), bench.u32(OUT + 4)), (DATA, DATA + 8));
    assert_eq!(&bench.memory[DATA as usize..][..10], b"program\0x\0");
    for (pointers, buffer) in [(u32::MAX, DATA), (OUT, u32::MAX - 3), (0xfffe, DATA)] {
        let result = bench.call(|kernel, guest| kernel.args_get(guest, pointers, buffer));
        assert_eq!(result, Err(Errno::FAULT));
    }
}

#[test]
fn clocks_tell_the_time_and_the_monotonic_one_never_reads_zero() {
    let mut bench = bench();
    *bench.clock.now_ns.lock().unwrap() = 5;
    let read = |bench: &mut Bench, clock| {
        bench.call(|kernel, guest| kernel.clock_time_get(guest, clock, 0, OUT))?;
        Ok(bench.u64(OUT))
    };
    assert_eq!(read(&mut bench, 0), Ok(1_000_000_000_005));
    assert_eq!(read(&mut bench, 1), Ok(1_000_000_005));
    assert!(read(&mut bench, 2).is_ok());
    assert_eq!(read(&mut bench, 4), Err(Errno::INVAL));
}
