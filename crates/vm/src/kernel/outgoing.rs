//! Connections that the program opens: `/net/tcp/HOST/PORT` and `/svc/NAME` as paths.
//!
//! Such a path is no file. It is known by how it is written, from the root on, whatever the file
//! tree holds; any other path is the tree's. Opening it waits until the connection is made, unless
//! it is opened not to block. A call that freezes while it waits goes on waiting for the same
//! connection after the thaw: the node where it was asked for makes it, wherever the process is then.

use super::Kernel;
use super::abi::{Call, Errno, fdflags, oflags, rights};
use super::files::Open;
use super::guest::Guest;
use super::waiting::{Blocking, Step, Wait};
use crate::ports::{ConnectError, Destination, Progress};
use wire::StreamId;
use wire::destination::MAX_HOST;
use wire::frame::MAX_LISTENER;
use wire::name::MAX_NAME;
use wire::snapshot::{Descriptor, Pending, Target};

/// What the program is told.
fn errno(error: ConnectError) -> Errno {
    match error {
        ConnectError::Denied => Errno::ACCES,
        ConnectError::NotFound => Errno::NOENT,
        ConnectError::Refused => Errno::CONNREFUSED,
        ConnectError::Unreachable => Errno::HOSTUNREACH,
        ConnectError::TimedOut => Errno::TIMEDOUT,
        ConnectError::TooMany => Errno::NFILE,
        ConnectError::Reset => Errno::CONNRESET,
    }
}

/// The parts of the path that `path` is from the root on, if it is looked up in `base`; nothing where
/// it leads above the root.
fn parts<'a>(base: &'a [u8], path: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let mut parts = Vec::new();
    let named = base.split(|byte| *byte == b'/');
    for part in named.chain(path.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts)
}

/// What the path opens, if it is not the tree's.
fn destination(base: &[u8], path: &[u8]) -> Option<Call<Destination>> {
    match parts(base, path)?[..] {
        [b"net", b"tcp", host, port] => Some(outside(host, port)),
        [b"svc", name] => Some(service(name, b"")),
        [b"svc", name, listener] => Some(service(name, listener)),
        _ => None,
    }
}

fn outside(host: &[u8], port: &[u8]) -> Call<Destination> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Errno::NOENT);
    let (host, port) = (text(host)?, text(port)?);
    let port = match port.parse() {
        Ok(port) if port != 0 => port,
        _ => return Err(Errno::NOENT),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    if host.len() > MAX_HOST || !host.chars().all(fits) {
        return Err(Errno::NOENT);
    }
    let host = host.to_owned();
    Ok(Destination::Tcp { host, port })
}

fn service(name: &[u8], listener: &[u8]) -> Call<Destination> {
    let text = |bytes: &[u8], most| match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= most => Ok(text.to_owned()),
        _ => Err(Errno::NOENT),
    };
    Ok(Destination::Service {
        name: text(name, MAX_NAME)?,
        listener: text(listener, MAX_LISTENER)?,
    })
}

/// `path_open`: of the tree, or of a connection.
pub(super) struct OpenPath {
    open: Open,
    /// The connection that is being made.
    stream: Option<StreamId>,
}

impl OpenPath {
    pub(super) fn new(open: Open) -> OpenPath {
        OpenPath { open, stream: None }
    }

    #[cfg(test)]
    pub(super) fn ask_for(&mut self, rights_base: u64) {
        self.open.rights_base = rights_base;
    }
}

impl Blocking for OpenPath {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        if let (None, Some(Pending::Connect { stream })) = (self.stream, &kernel.pending) {
            self.stream = Some(*stream);
        }
        let to = match kernel.destination(guest, &self.open)? {
            Some(to) => to?,
            None => return kernel.path_open(guest, self.open).map(|()| Step::Done),
        };
        let opened = kernel.open_connection(guest, &self.open, &to, &mut self.stream);
        if opened.is_err()
            && let Some(stream) = self.stream.take()
        {
            kernel.ports.network.close(stream);
        }
        opened
    }

    fn freeze(&mut self, kernel: &mut Kernel) {
        // Frozen before the first attempt, it has nothing to add to what an earlier issue left.
        if let Some(stream) = self.stream.take() {
            kernel.pending = Some(Pending::Connect { stream });
        }
    }
}

impl Kernel {
    fn destination(&self, guest: &Guest<'_>, open: &Open) -> Call<Option<Call<Destination>>> {
        let (Target::Directory {
            preopen: Some(base),
            ..
        }
        | Target::VolumeDirectory {
            preopen: Some(base),
            ..
        }) = &self.descriptor(open.directory)?.target
        else {
            return Ok(None);
        };
        let path = guest.bytes(open.path, open.path_length)?;
        Ok(destination(base, path))
    }

    fn open_connection(
        &mut self,
        guest: &mut Guest<'_>,
        open: &Open,
        to: &Destination,
        stream: &mut Option<StreamId>,
    ) -> Call<Step> {
        let flag = |flag| open.flags & flag != 0;
        let flags = match u16::try_from(open.fdflags) {
            Ok(flags) if flags & !fdflags::ALL == 0 && open.flags & !oflags::ALL == 0 => flags,
            _ => return Err(Errno::INVAL),
        };
        guest.range(open.out, 4)?;
        let directory = self.permitted(open.directory, rights::PATH_OPEN)?;
        let inheriting = directory.rights_inheriting;
        if flag(oflags::DIRECTORY) {
            return Err(Errno::NOTDIR);
        }
        if flag(oflags::CREAT) && flag(oflags::EXCL) {
            return Err(Errno::EXIST);
        }
        let number = self.free_descriptor()?;
        let stream = match *stream {
            Some(stream) => stream,
            None => *stream.insert(self.ports.network.connect(to).map_err(errno)?),
        };
        match self.ports.network.progress(stream) {
            Progress::Connected => {}
            Progress::Connecting if flags & fdflags::NONBLOCK != 0 => {}
            Progress::Connecting => return Ok(Step::Block(Wait::NETWORK)),
            Progress::Failed(error) => return Err(errno(error)),
        }
        // Reading and writing as was asked for; a path cannot give the other rights of a connection.
        let asked = open.rights_base & inheriting & (rights::FD_READ | rights::FD_WRITE);
        let descriptor = Descriptor {
            target: Target::Socket(stream),
            flags,
            rights_base: rights::SOCKET & !(rights::FD_READ | rights::FD_WRITE) | asked,
            rights_inheriting: 0,
        };
        self.descriptors.insert(number, descriptor);
        guest.write_u32(open.out, number)?;
        Ok(Step::Done)
    }

    /// Why a connection is broken: what became of it if it was never made, else that it was reset.
    pub(super) fn why_broken(&self, stream: StreamId) -> Errno {
        match self.ports.network.progress(stream) {
            Progress::Failed(error) => errno(error),
            Progress::Connecting | Progress::Connected => Errno::CONNRESET,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(base: &str, path: &str) -> Option<Result<String, Errno>> {
        let destination = destination(base.as_bytes(), path.as_bytes())?;
        Some(destination.map(|destination| destination.to_string()))
    }

    #[test]
    fn a_path_is_a_destination_by_how_it_is_written_from_the_root_on() {
        let there = Some(Ok("/net/tcp/a.org/80".to_owned()));
        for (base, path) in [
            ("/", "net/tcp/a.org/80"),
            ("/", "/net/tcp/a.org/80"),
            ("/net", "tcp/a.org/80"),
            ("/net/", "./tcp//a.org/./80/"),
            ("/data", "../net/tcp/a.org/80"),
            ("/", "net/udp/../tcp/a.org/80"),
        ] {
            assert_eq!(opened(base, path), there, "{base} {path}");
        }
        let service = Some(Ok("/svc/bank/admin".to_owned()));
        assert_eq!(opened("/svc", "bank/admin"), service);
        assert_eq!(opened("/", "svc/bank"), Some(Ok("/svc/bank".to_owned())));
        let v6 = opened("/", "net/tcp/[::1]/80").unwrap().unwrap();
        assert_eq!(v6, "/net/tcp/[::1]/80");
        for (base, path) in [
            ("/", "net/tcp/a.org"),
            ("/", "net/tcp/a.org/80/x"),
            ("/", "net"),
            ("/", "svc"),
            ("/", "svc/a/b/c"),
            ("/data", "net/tcp/a.org/80"),
            ("/", "../net/tcp/a.org/80"),
        ] {
            assert_eq!(opened(base, path), None, "{base} {path}");
        }
    }

    #[test]
    fn what_cannot_be_a_host_or_port_is_not_found() {
        let long = format!("net/tcp/{}/80", "a".repeat(254));
        for path in [
            "net/tcp/a.org/0",
            "net/tcp/a.org/65536",
            "net/tcp/a.org/http",
            "net/tcp/a b/80",
            "net/tcp/\u{e9}/80",
            &long,
            &format!("svc/{}", "a".repeat(64)),
            &format!("svc/a/{}", "a".repeat(65)),
        ] {
            assert_eq!(opened("/", path), Some(Err(Errno::NOENT)), "{path}");
        }
    }
}
