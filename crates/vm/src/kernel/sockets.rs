//! Connections: accepting, receiving, sending, shutting down. `fd_read`, `fd_write`, `fd_close`
//! and `poll_oneoff` work on them too.

use super::Kernel;
use super::abi::{Call, Errno, fdflags, rights};
use super::guest::Guest;
use super::transfer::{Read, Vectored, Write};
use super::waiting::{Blocking, Step, Wait};
use wire::StreamId;
use wire::snapshot::{Descriptor, Target};

const RECV_PEEK: u32 = 1;
const RECV_WAITALL: u32 = 2;
const SHUTDOWN_READ: u32 = 1;
const SHUTDOWN_WRITE: u32 = 2;

impl Kernel {
    /// The stream of a connection's descriptor.
    pub(super) fn socket(&self, descriptor: u32) -> Call<StreamId> {
        match self.descriptor(descriptor)?.target {
            Target::Socket(stream) => Ok(stream),
            Target::Listener(_) => Err(Errno::NOTCONN),
            _ => Err(Errno::NOTSOCK),
        }
    }

    pub(super) fn sock_shutdown(&self, _: &mut Guest<'_>, descriptor: u32, how: u32) -> Call {
        let stream = self.socket(descriptor)?;
        self.permitted(descriptor, rights::SOCK_SHUTDOWN)?;
        if how == 0 || how & !(SHUTDOWN_READ | SHUTDOWN_WRITE) != 0 {
            return Err(Errno::INVAL);
        }
        let (read, write) = (how & SHUTDOWN_READ != 0, how & SHUTDOWN_WRITE != 0);
        self.ports.network.shutdown(stream, read, write);
        Ok(())
    }
}

/// `sock_accept`.
pub(super) struct Accept {
    pub descriptor: u32,
    pub flags: u32,
    pub out: u32,
}

impl Blocking for Accept {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        guest.range(self.out, 4)?;
        let holder = kernel.descriptor(self.descriptor)?;
        let listener = match holder.target {
            Target::Listener(listener) => listener,
            Target::Socket(_) => return Err(Errno::INVAL),
            _ => return Err(Errno::NOTSOCK),
        };
        kernel.permitted(self.descriptor, rights::SOCK_ACCEPT)?;
        let flags = match u16::try_from(self.flags) {
            Ok(flags) if flags & !fdflags::NONBLOCK == 0 => flags,
            _ => return Err(Errno::INVAL),
        };
        let nonblocking = holder.flags & fdflags::NONBLOCK != 0;
        let rights_base = holder.rights_inheriting & rights::SOCKET;
        let number = kernel.free_descriptor()?;
        let Some(stream) = kernel.ports.network.accept(listener) else {
            return match nonblocking {
                true => Err(Errno::AGAIN),
                false => Ok(Step::Block(Wait::NETWORK)),
            };
        };
        let descriptor = Descriptor {
            target: Target::Socket(stream),
            flags,
            rights_base,
            rights_inheriting: 0,
        };
        kernel.descriptors.insert(number, descriptor);
        guest.write_u32(self.out, number)?;
        Ok(Step::Done)
    }
}

/// `sock_recv`: a read that only sockets answer.
pub(super) struct Receive {
    read: Read,
    descriptor: u32,
    flags: u32,
}

impl Receive {
    pub(super) fn new(call: Vectored, flags: u32, flags_out: u32) -> Receive {
        let (peek, wait_all) = (flags & RECV_PEEK != 0, flags & RECV_WAITALL != 0);
        Receive {
            read: Read::receive(call, peek, wait_all, flags_out),
            descriptor: call.descriptor,
            flags,
        }
    }
}

impl Blocking for Receive {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        kernel.socket(self.descriptor)?;
        if self.flags & !(RECV_PEEK | RECV_WAITALL) != 0 {
            return Err(Errno::INVAL);
        }
        self.read.attempt(kernel, guest)
    }

    fn finish(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Option<Call> {
        self.read.finish(kernel, guest)
    }

    fn progressed(&self) -> bool {
        self.read.progressed()
    }
}

/// `sock_send`: a write that only sockets answer.
pub(super) struct Send {
    write: Write,
    descriptor: u32,
    flags: u32,
}

impl Send {
    pub(super) fn new(call: Vectored, flags: u32) -> Send {
        Send {
            write: Write::new(call),
            descriptor: call.descriptor,
            flags,
        }
    }
}

impl Blocking for Send {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        kernel.socket(self.descriptor)?;
        if self.flags != 0 {
            return Err(Errno::INVAL);
        }
        self.write.attempt(kernel, guest)
    }

    fn finish(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Option<Call> {
        self.write.finish(kernel, guest)
    }

    fn progressed(&self) -> bool {
        self.write.progressed()
    }
}
