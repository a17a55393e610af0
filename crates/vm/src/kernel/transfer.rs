//! Reading and writing: files, standard streams, connections.
//!
//! A blocking read returns what is there, at least a byte; a blocking write goes on until all is
//! written. Asked to freeze on the way, all return what they have done so far; long ones look for
//! that after every piece of a megabyte.

use super::Kernel;
use super::abi::{Call, Errno, PIECE_BYTES, fdflags, rights};
use super::files::MAX_FILE_BYTES;
use super::guest::{Buffers, Guest};
use super::store::Store;
use super::waiting::{Blocking, Step, Wait};
use crate::account::Device;
use crate::ports::Io;
use std::ops::Range;
use wire::StreamId;
use wire::snapshot::Target;

/// Bytes that a peek looks at, at most.
const MAX_PEEK_BYTES: usize = 1 << 16;

/// The vector of buffers of a call, as the guest passes it.
#[derive(Clone, Copy)]
pub(super) struct Vectored {
    pub descriptor: u32,
    pub list: u32,
    pub count: u32,
    /// Where the number of bytes moved goes.
    pub out: u32,
}

impl Vectored {
    /// All pointers checked.
    fn check(&self, guest: &Guest<'_>) -> Call<Buffers> {
        guest.range(self.out, 4)?;
        guest.buffers(self.list, self.count)
    }

    fn finish(&self, guest: &mut Guest<'_>, moved: usize) -> Call<Step> {
        guest.write_u32(self.out, moved as u32)?;
        Ok(Step::Done)
    }
}

/// Where a stream of bytes comes from or goes to.
#[derive(Clone, Copy)]
enum Channel {
    Stdin,
    Output(u32),
    Socket(StreamId),
}

impl Channel {
    fn wait(self) -> Wait {
        match self {
            Channel::Socket(_) => Wait::NETWORK,
            _ => Wait::STDIO,
        }
    }

    fn why_broken(self, kernel: &Kernel) -> Errno {
        match self {
            Channel::Socket(stream) => kernel.why_broken(stream),
            _ => Errno::CONNRESET,
        }
    }
}

/// What is left of `buffers` after `skip` bytes, in pieces that are moved at once.
fn pieces(buffers: &Buffers, skip: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    rest(buffers, skip).flat_map(|buffer| {
        let starts = buffer.clone().step_by(PIECE_BYTES);
        starts.map(move |start| start..buffer.end.min(start + PIECE_BYTES))
    })
}

/// What is left of `buffers` after `skip` bytes.
fn rest(buffers: &Buffers, mut skip: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let rest = buffers.iter().map(move |buffer| {
        let skipped = skip.min(buffer.len());
        skip -= skipped;
        buffer.start + skipped..buffer.end
    });
    rest.filter(|buffer| !buffer.is_empty())
}

fn total(buffers: &Buffers) -> usize {
    buffers.iter().map(Range::len).sum()
}

/// `fd_read` and `sock_recv`.
pub(super) struct Read {
    call: Vectored,
    /// `sock_recv`: where its output flags go.
    flags_out: Option<u32>,
    peek: bool,
    wait_all: bool,
    moved: usize,
}

impl Read {
    pub(super) fn new(call: Vectored) -> Read {
        Read {
            call,
            flags_out: None,
            peek: false,
            wait_all: false,
            moved: 0,
        }
    }

    pub(super) fn receive(call: Vectored, peek: bool, wait_all: bool, flags_out: u32) -> Read {
        Read {
            call,
            flags_out: Some(flags_out),
            peek,
            wait_all: wait_all && !peek,
            moved: 0,
        }
    }

    fn done(&self, guest: &mut Guest<'_>, moved: usize) -> Call<Step> {
        if let Some(flags_out) = self.flags_out {
            guest.write(flags_out, &[0, 0])?;
        }
        self.call.finish(guest, moved)
    }

    fn read_channel(
        &mut self,
        kernel: &Kernel,
        guest: &mut Guest<'_>,
        buffers: &Buffers,
        channel: Channel,
        nonblocking: bool,
    ) -> Call<Step> {
        let wanted = total(buffers);
        if self.peek {
            let mut copy = vec![0; wanted.min(MAX_PEEK_BYTES)];
            return match read_once(kernel, channel, &mut copy, true) {
                Io::Done(count) => {
                    let mut copied = 0;
                    for buffer in rest(buffers, 0) {
                        let part = (count - copied).min(buffer.len());
                        let target = guest.slice_mut(buffer.start..buffer.start + part)?;
                        target.copy_from_slice(&copy[copied..copied + part]);
                        copied += part;
                    }
                    self.done(guest, copied)
                }
                Io::Closed => self.done(guest, 0),
                Io::Reset => Err(channel.why_broken(kernel)),
                Io::Blocked if nonblocking => Err(Errno::AGAIN),
                Io::Blocked => Ok(Step::Block(channel.wait())),
            };
        }
        let mut ended = false;
        for buffer in pieces(buffers, self.moved) {
            if self.moved > 0 && kernel.control.wants_freeze() {
                break;
            }
            let length = buffer.len();
            match read_once(kernel, channel, guest.slice_mut(buffer)?, false) {
                Io::Done(count) => {
                    let count = count.min(length);
                    self.moved += count;
                    ended = count == 0;
                    if count < length {
                        break;
                    }
                }
                Io::Closed => {
                    ended = true;
                    break;
                }
                Io::Reset if self.moved == 0 => return Err(channel.why_broken(kernel)),
                Io::Reset => {
                    ended = true;
                    break;
                }
                Io::Blocked => break,
            }
        }
        let enough = match self.wait_all && !nonblocking {
            true => self.moved == wanted,
            false => self.moved > 0 || wanted == 0,
        };
        if ended || enough {
            self.done(guest, self.moved)
        } else if nonblocking {
            Err(Errno::AGAIN)
        } else {
            Ok(Step::Block(channel.wait()))
        }
    }
}

fn read_once(kernel: &Kernel, channel: Channel, buffer: &mut [u8], peek: bool) -> Io {
    match channel {
        Channel::Stdin => kernel.ports.stdio.read(buffer),
        Channel::Socket(stream) => kernel.ports.network.read(stream, buffer, peek),
        Channel::Output(_) => Io::Closed,
    }
}

impl Blocking for Read {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        let buffers = self.call.check(guest)?;
        if let Some(flags_out) = self.flags_out {
            guest.range(flags_out, 2)?;
        }
        let descriptor = kernel.descriptor(self.call.descriptor)?;
        match descriptor.target {
            Target::Directory { .. } | Target::VolumeDirectory { .. } => return Err(Errno::ISDIR),
            Target::Listener(_) => return Err(Errno::NOTCONN),
            _ => kernel.permitted(self.call.descriptor, rights::FD_READ)?,
        };
        let nonblocking = descriptor.flags & fdflags::NONBLOCK != 0;
        let channel = match descriptor.target {
            Target::Stdin => Channel::Stdin,
            Target::Socket(stream) => Channel::Socket(stream),
            Target::File { .. } | Target::VolumeFile { .. } => {
                let (store, position) = kernel.file(self.call.descriptor, rights::FD_READ)?;
                let moved = read_file(kernel, guest, store, position, &buffers)?;
                let end = position.saturating_add(moved as u64);
                kernel.set_position(self.call.descriptor, end);
                return self.done(guest, moved);
            }
            _ => return Err(Errno::BADF),
        };
        self.read_channel(kernel, guest, &buffers, channel, nonblocking)
    }

    fn finish(&mut self, _: &mut Kernel, guest: &mut Guest<'_>) -> Option<Call> {
        let moved = self.moved;
        (moved > 0).then(|| self.done(guest, moved).map(|_| ()))
    }

    fn progressed(&self) -> bool {
        self.moved > 0
    }
}

fn read_file(
    kernel: &mut Kernel,
    guest: &mut Guest<'_>,
    store: Store,
    position: u64,
    buffers: &Buffers,
) -> Call<usize> {
    let mut moved = 0;
    for buffer in pieces(buffers, 0) {
        let length = buffer.len();
        let at = position.saturating_add(moved as u64);
        let count = match kernel.read_at(store, at, guest.slice_mut(buffer)?) {
            Ok(count) => count,
            Err(error) if moved == 0 => return Err(error),
            Err(_) => break,
        };
        moved += count;
        if count < length || kernel.control.wants_freeze() {
            break;
        }
    }
    kernel.note_read(store);
    kernel.meter.count_read(Device::Files, moved);
    Ok(moved)
}

/// `fd_write` and `sock_send`.
pub(super) struct Write {
    call: Vectored,
    moved: usize,
}

impl Write {
    pub(super) fn new(call: Vectored) -> Write {
        Write { call, moved: 0 }
    }

    fn write_channel(
        &mut self,
        kernel: &Kernel,
        guest: &mut Guest<'_>,
        buffers: &Buffers,
        channel: Channel,
        nonblocking: bool,
    ) -> Call<Step> {
        for buffer in pieces(buffers, self.moved) {
            if self.moved > 0 && kernel.control.wants_freeze() {
                break;
            }
            let bytes = guest.slice(buffer)?;
            let result = match channel {
                Channel::Output(number) => kernel.ports.stdio.write(number, bytes),
                Channel::Socket(stream) => kernel.ports.network.write(stream, bytes),
                Channel::Stdin => Io::Closed,
            };
            match result {
                // A port that takes nothing of something is full.
                Io::Done(count) if count > 0 => {
                    self.moved += count.min(bytes.len());
                    if count < bytes.len() {
                        return self.full(guest, channel, nonblocking);
                    }
                }
                Io::Done(_) | Io::Blocked => return self.full(guest, channel, nonblocking),
                // Told at the next call, if this one has moved something.
                Io::Reset | Io::Closed if self.moved > 0 => break,
                Io::Reset => return Err(channel.why_broken(kernel)),
                Io::Closed => return Err(Errno::PIPE),
            }
        }
        self.call.finish(guest, self.moved)
    }

    fn full(&self, guest: &mut Guest<'_>, channel: Channel, nonblocking: bool) -> Call<Step> {
        match nonblocking {
            true if self.moved == 0 => Err(Errno::AGAIN),
            true => self.call.finish(guest, self.moved),
            false => Ok(Step::Block(channel.wait())),
        }
    }
}

impl Blocking for Write {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        let buffers = self.call.check(guest)?;
        let descriptor = kernel.descriptor(self.call.descriptor)?;
        match descriptor.target {
            Target::Directory { .. } | Target::VolumeDirectory { .. } => return Err(Errno::BADF),
            Target::Listener(_) => return Err(Errno::NOTCONN),
            _ => kernel.permitted(self.call.descriptor, rights::FD_WRITE)?,
        };
        let flags = descriptor.flags;
        let channel = match descriptor.target {
            Target::Stdout => Channel::Output(1),
            Target::Stderr => Channel::Output(2),
            Target::Socket(stream) => Channel::Socket(stream),
            Target::File { .. } | Target::VolumeFile { .. } => {
                let (store, position) = kernel.file(self.call.descriptor, rights::FD_WRITE)?;
                let append = flags & fdflags::APPEND != 0;
                if append && let Store::Volume(descriptor) = store {
                    let moved = append_to_volume(kernel, guest, descriptor, &buffers)?;
                    return self.call.finish(guest, moved);
                }
                let from = match append {
                    true => kernel.size_of(store)?,
                    false => position,
                };
                let moved = write_file(kernel, guest, store, from, &buffers)?;
                // Writing nothing moves nothing, not even to the end of what is appended to.
                if moved > 0 {
                    let end = from.saturating_add(moved as u64);
                    kernel.set_position(self.call.descriptor, end);
                }
                return self.call.finish(guest, moved);
            }
            _ => return Err(Errno::BADF),
        };
        let nonblocking = flags & fdflags::NONBLOCK != 0;
        self.write_channel(kernel, guest, &buffers, channel, nonblocking)
    }

    fn finish(&mut self, _: &mut Kernel, guest: &mut Guest<'_>) -> Option<Call> {
        let moved = self.moved;
        (moved > 0).then(|| self.call.finish(guest, moved).map(|_| ()))
    }

    fn progressed(&self) -> bool {
        self.moved > 0
    }
}

/// As much as there is room for; where there is none at all, an error.
fn write_file(
    kernel: &mut Kernel,
    guest: &Guest<'_>,
    store: Store,
    position: u64,
    buffers: &Buffers,
) -> Call<usize> {
    let mut moved = 0;
    for buffer in pieces(buffers, 0) {
        let bytes = guest.slice(buffer)?;
        let at = position.checked_add(moved as u64).ok_or(Errno::FBIG)?;
        let count = match kernel.write_at(store, at, bytes) {
            Ok(count) => count,
            Err(error) if moved == 0 => return Err(error),
            Err(_) => break,
        };
        moved += count;
        if count < bytes.len() || kernel.control.wants_freeze() {
            break;
        }
    }
    if moved > 0 {
        kernel.note_written(store);
        kernel.meter.count_written(Device::Files, moved);
    }
    Ok(moved)
}

/// Writes behind whatever else is written to the file, by whomever.
fn append_to_volume(
    kernel: &mut Kernel,
    guest: &Guest<'_>,
    descriptor: u32,
    buffers: &Buffers,
) -> Call<usize> {
    let mut moved = 0;
    for buffer in pieces(buffers, 0) {
        let bytes = guest.slice(buffer)?;
        let (count, end) = match kernel.volumes.append(descriptor, bytes) {
            Ok(appended) => appended,
            Err(error) if moved == 0 => return Err(error),
            Err(_) => break,
        };
        moved += count;
        kernel.set_position(descriptor, end);
        if count < bytes.len() || kernel.control.wants_freeze() {
            break;
        }
    }
    if moved > 0 {
        kernel.meter.count_written(Device::Files, moved);
    }
    Ok(moved)
}

impl Kernel {
    pub(super) fn fd_pread(&mut self, guest: &mut Guest<'_>, call: Vectored, offset: u64) -> Call {
        let buffers = call.check(guest)?;
        let (store, _) = self.file(call.descriptor, rights::FD_READ | rights::FD_SEEK)?;
        if offset > MAX_FILE_BYTES {
            return Err(Errno::INVAL);
        }
        let moved = read_file(self, guest, store, offset, &buffers)?;
        call.finish(guest, moved).map(|_| ())
    }

    /// Writes at `offset`, even to a file that is opened to append, as POSIX has it.
    pub(super) fn fd_pwrite(&mut self, guest: &mut Guest<'_>, call: Vectored, offset: u64) -> Call {
        let buffers = call.check(guest)?;
        let (store, _) = self.file(call.descriptor, rights::FD_WRITE | rights::FD_SEEK)?;
        if offset > MAX_FILE_BYTES {
            return Err(Errno::INVAL);
        }
        let moved = write_file(self, guest, store, offset, &buffers)?;
        call.finish(guest, moved).map(|_| ())
    }
}
