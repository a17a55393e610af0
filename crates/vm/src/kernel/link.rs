//! What a guest can import: the 46 functions of WASI preview 1, their types, and which of them
//! may block, or take long, and therefore freeze.

use super::Kernel;
use super::abi::{Call, Errno, signal};
use super::context::RandomGet;
use super::files::{Allocate, Open, ReadDirectory};
use super::guest::Guest;
use super::outgoing::OpenPath;
use super::poll::{PollOneoff, Yield};
use super::sockets::{Accept, Receive, Send};
use super::transfer::{Read, Vectored, Write};
use super::waiting::{Waiting, code};
use freeze::Slot;
use wasmtime::{Caller, Global, Linker, Memory};

/// The module name of preview 1.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

/// What lies in the store of a process: the kernel, and where it finds the guest.
pub(crate) struct Context {
    pub kernel: Kernel,
    /// The memory that pointers refer to: the export `memory`.
    pub memory: Option<Memory>,
    /// The global by which a host call says that it froze.
    pub frozen: Option<Global>,
    pub tables: super::super::machine::TableLimit,
}

/// The program ended with a status.
#[derive(Debug, thiserror::Error)]
#[error("exit status {0}")]
pub(crate) struct ExitStatus(pub i32);

/// The process was killed in a host call.
#[derive(Debug, thiserror::Error)]
#[error("killed")]
pub(crate) struct Killed;

/// A call that never waits. A process that was killed meanwhile does not return from it.
fn enter(
    caller: &mut Caller<'_, Context>,
    call: impl FnOnce(&mut Kernel, &mut Guest<'_>) -> Call,
) -> wasmtime::Result<u32> {
    let memory = caller.data().memory;
    let (bytes, context) = match memory {
        Some(memory) => memory.data_and_store_mut(caller),
        None => (&mut [][..], caller.data_mut()),
    };
    let result = call(&mut context.kernel, &mut Guest::new(bytes));
    context.kernel.completed();
    match context.kernel.control.killed() {
        true => Err(Killed.into()),
        false => Ok(code(result)),
    }
}

/// How a parameter looks in a signature.
trait Parameter {
    const SLOT: Slot;
}

impl Parameter for u32 {
    const SLOT: Slot = Slot::I32;
}

impl Parameter for u64 {
    const SLOT: Slot = Slot::I64;
}

macro_rules! calls {
    (
        at_once { $($name:ident($($arg:ident: $type:ty),*) => $($pass:expr),*;)* }
        blocking { $($wait:ident($($wait_arg:ident: $wait_type:ty),*) => $state:expr;)* }
    ) => {
        /// The functions that may freeze: those that may block or take long.
        pub(crate) const FREEZING: &[&str] = &[$(stringify!($wait)),*];

        /// Parameters and results of the function of that name, if there is one.
        fn signature(name: &str) -> Option<(Vec<Slot>, Vec<Slot>)> {
            let parameters = match name {
                $(stringify!($name) => vec![$(<$type as Parameter>::SLOT),*],)*
                $(stringify!($wait) => vec![$(<$wait_type as Parameter>::SLOT),*],)*
                "proc_exit" => return Some((vec![Slot::I32], vec![])),
                "proc_raise" => vec![Slot::I32],
                _ => return None,
            };
            Some((parameters, vec![Slot::I32]))
        }

        fn define(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
            $(linker.func_wrap(
                MODULE,
                stringify!($name),
                |mut caller: Caller<'_, Context>, $($arg: $type),*| -> wasmtime::Result<u32> {
                    enter(&mut caller, |kernel, guest| kernel.$name(guest, $($pass),*))
                },
            )?;)*
            $(linker.func_wrap_async(
                MODULE,
                stringify!($wait),
                |caller: Caller<'_, Context>, ($($wait_arg,)*): ($($wait_type,)*)| {
                    Waiting::new(caller, $state)
                },
            )?;)*
            linker.func_wrap(
                MODULE,
                "proc_exit",
                |_: Caller<'_, Context>, status: u32| -> wasmtime::Result<()> {
                    Err(ExitStatus(status.cast_signed()).into())
                },
            )?;
            linker.func_wrap(
                MODULE,
                "proc_raise",
                |mut caller: Caller<'_, Context>, signal: u32| -> wasmtime::Result<u32> {
                    let result = raise(signal)?;
                    enter(&mut caller, |_, _| result)
                },
            )?;
            Ok(())
        }

        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($name),)* $(stringify!($wait),)* "proc_exit", "proc_raise"];
    };
}

calls! {
    at_once {
        args_get(pointers: u32, buffer: u32) => pointers, buffer;
        args_sizes_get(count: u32, size: u32) => count, size;
        environ_get(pointers: u32, buffer: u32) => pointers, buffer;
        environ_sizes_get(count: u32, size: u32) => count, size;
        clock_res_get(clock: u32, out: u32) => clock, out;
        clock_time_get(clock: u32, precision: u64, out: u32) => clock, precision, out;

        fd_advise(fd: u32, offset: u64, length: u64, advice: u32) => fd, offset, length, advice;
        fd_close(fd: u32) => fd;
        fd_datasync(fd: u32) => fd;
        fd_fdstat_get(fd: u32, out: u32) => fd, out;
        fd_fdstat_set_flags(fd: u32, flags: u32) => fd, flags;
        fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64) => fd, base, inheriting;
        fd_filestat_get(fd: u32, out: u32) => fd, out;
        fd_filestat_set_size(fd: u32, size: u64) => fd, size;
        fd_filestat_set_times(fd: u32, accessed: u64, modified: u64, flags: u32)
            => fd, (accessed, modified, flags);
        fd_pread(descriptor: u32, list: u32, count: u32, offset: u64, out: u32)
            => Vectored { descriptor, list, count, out }, offset;
        fd_prestat_get(fd: u32, out: u32) => fd, out;
        fd_prestat_dir_name(fd: u32, buffer: u32, length: u32) => fd, buffer, length;
        fd_pwrite(descriptor: u32, list: u32, count: u32, offset: u64, out: u32)
            => Vectored { descriptor, list, count, out }, offset;
        fd_renumber(from: u32, to: u32) => from, to;
        fd_seek(fd: u32, offset: u64, whence: u32, out: u32) => fd, offset, whence, out;
        fd_sync(fd: u32) => fd;
        fd_tell(fd: u32, out: u32) => fd, out;

        path_create_directory(fd: u32, path: u32, length: u32) => fd, path, length;
        path_filestat_get(fd: u32, lookup: u32, path: u32, length: u32, out: u32)
            => fd, lookup, (path, length), out;
        path_filestat_set_times(
            fd: u32, lookup: u32, path: u32, length: u32,
            accessed: u64, modified: u64, flags: u32
        ) => (fd, lookup), (path, length), (accessed, modified, flags);
        path_link(
            from_fd: u32, lookup: u32, from: u32, from_length: u32,
            to_fd: u32, to: u32, to_length: u32
        ) => lookup, (from_fd, from, from_length), (to_fd, to, to_length);
        path_readlink(
            fd: u32, path: u32, length: u32, buffer: u32, buffer_length: u32, out: u32
        ) => fd, (path, length), (buffer, buffer_length), out;
        path_remove_directory(fd: u32, path: u32, length: u32) => fd, path, length;
        path_rename(
            from_fd: u32, from: u32, from_length: u32, to_fd: u32, to: u32, to_length: u32
        ) => (from_fd, from, from_length), (to_fd, to, to_length);
        path_symlink(target: u32, target_length: u32, fd: u32, path: u32, length: u32)
            => (target, target_length), fd, (path, length);
        path_unlink_file(fd: u32, path: u32, length: u32) => fd, path, length;

        sock_shutdown(fd: u32, how: u32) => fd, how;
    }
    blocking {
        fd_allocate(descriptor: u32, offset: u64, length: u64)
            => Allocate { descriptor, offset, length, begun: None };
        fd_readdir(descriptor: u32, buffer: u32, length: u32, cookie: u64, out: u32)
            => ReadDirectory { descriptor, buffer, length, out, cookie, used: 0 };
        random_get(buffer: u32, length: u32) => RandomGet::new(buffer, length);
        fd_read(descriptor: u32, list: u32, count: u32, out: u32)
            => Read::new(Vectored { descriptor, list, count, out });
        fd_write(descriptor: u32, list: u32, count: u32, out: u32)
            => Write::new(Vectored { descriptor, list, count, out });
        path_open(
            directory: u32, lookup: u32, path: u32, path_length: u32, flags: u32,
            rights_base: u64, rights_inheriting: u64, fdflags: u32, out: u32
        ) => OpenPath::new(Open {
            directory, lookup, path, path_length, flags,
            rights_base, rights_inheriting, fdflags, out
        });
        poll_oneoff(subscriptions: u32, events: u32, count: u32, out: u32)
            => PollOneoff { subscriptions, events, count, out, deadlines: None };
        sched_yield() => Yield::default();
        sock_accept(descriptor: u32, flags: u32, out: u32) => Accept { descriptor, flags, out };
        sock_recv(
            descriptor: u32, list: u32, count: u32, flags: u32, out: u32, flags_out: u32
        ) => Receive::new(Vectored { descriptor, list, count, out }, flags, flags_out);
        sock_send(descriptor: u32, list: u32, count: u32, flags: u32, out: u32)
            => Send::new(Vectored { descriptor, list, count, out }, flags);
    }
}

/// What becomes of a process that raises a signal: there are no handlers in preview 1, so what
/// POSIX does by default. Nothing stops a process in its place.
fn raise(signal: u32) -> Result<Call, ExitStatus> {
    match signal {
        signal::NONE | signal::CHLD | signal::CONT | signal::URG | signal::WINCH => Ok(Ok(())),
        signal::STOP..=signal::TTOU => Ok(Err(Errno::NOTSUP)),
        // As a shell tells it.
        1..=signal::SYS => Err(ExitStatus(128 + signal.cast_signed())),
        _ => Ok(Err(Errno::INVAL)),
    }
}

/// What guests can import.
pub(crate) struct Interface;

impl Interface {
    /// A linker with all functions.
    pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Context>> {
        let mut linker = Linker::new(engine);
        define(&mut linker)?;
        Ok(linker)
    }

    /// Parameters and results of an import, if it is known.
    pub(crate) fn signature(module: &str, name: &str) -> Option<(Vec<Slot>, Vec<Slot>)> {
        if module != MODULE {
            return None;
        }
        signature(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preview_1_is_complete() {
        assert_eq!(NAMES.len(), 46);
        assert!(NAMES.iter().all(|name| signature(name).is_some()));
    }

    #[test]
    fn a_signal_ends_the_process_or_is_ignored_as_by_default() {
        let ends = |number| raise(number).err().map(|ExitStatus(status)| status);
        assert_eq!(
            [ends(6), ends(9), ends(15), ends(30)],
            [134, 137, 143, 158].map(Some)
        );
        for ignored in [0, 16, 17, 22, 27] {
            assert_eq!(raise(ignored).ok(), Some(Ok(())));
        }
        for (number, error) in [(18, Errno::NOTSUP), (21, Errno::NOTSUP), (31, Errno::INVAL)] {
            assert_eq!(raise(number).ok(), Some(Err(error)));
        }
        assert_eq!(raise(u32::MAX).ok(), Some(Err(Errno::INVAL)));
    }
}
