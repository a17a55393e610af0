//! Paths beneath a directory of this machine.
//!
//! The system itself resolves them, and lets none lead out: `openat2` with `RESOLVE_BENEATH` goes
//! through all names, links and `..` in one call, so that nothing that somebody renames or links
//! meanwhile leads elsewhere. The calls that have no such form act in a directory that was opened
//! so, on the last name of the path, at which none of them follows a link.

use super::super::abi::{Call, Errno};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat, Timestamps};
use rustix::io::Errno as Host;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const MAX_PATH_BYTES: usize = 4096;
/// Times that a path is looked up anew when something was renamed on its way.
const ATTEMPTS: u32 = 64;
/// What new files and directories may be used for, before the node's umask.
const NEW_FILE: Mode = Mode::from_raw_mode(0o666);
const NEW_DIRECTORY: Mode = Mode::from_raw_mode(0o777);

/// What the guest calls an error of the system.
pub(in super::super) fn errno(error: Host) -> Errno {
    match error {
        Host::ACCESS => Errno::ACCES,
        Host::AGAIN => Errno::AGAIN,
        Host::BADF => Errno::BADF,
        Host::BUSY => Errno::BUSY,
        Host::DQUOT => Errno::DQUOT,
        Host::EXIST => Errno::EXIST,
        Host::FBIG => Errno::FBIG,
        Host::INTR => Errno::INTR,
        Host::INVAL => Errno::INVAL,
        Host::ISDIR => Errno::ISDIR,
        Host::LOOP => Errno::LOOP,
        Host::MFILE => Errno::MFILE,
        Host::MLINK => Errno::MLINK,
        Host::NAMETOOLONG => Errno::NAMETOOLONG,
        Host::NFILE => Errno::NFILE,
        Host::NOENT => Errno::NOENT,
        Host::NOMEM => Errno::NOMEM,
        Host::NOSPC => Errno::NOSPC,
        Host::NOTDIR => Errno::NOTDIR,
        Host::NOTEMPTY => Errno::NOTEMPTY,
        Host::NXIO => Errno::NXIO,
        Host::OPNOTSUPP | Host::NOSYS => Errno::NOTSUP,
        Host::OVERFLOW => Errno::OVERFLOW,
        Host::PERM => Errno::PERM,
        Host::ROFS => Errno::ROFS,
        Host::SPIPE => Errno::SPIPE,
        Host::STALE => Errno::STALE,
        Host::TXTBSY => Errno::TXTBSY,
        Host::XDEV => Errno::XDEV,
        _ => Errno::IO,
    }
}

fn check(path: &[u8]) -> Call {
    match path {
        b"" => Err(Errno::NOENT),
        path if path.len() > MAX_PATH_BYTES => Err(Errno::NAMETOOLONG),
        path if path.contains(&0) => Err(Errno::INVAL),
        path if path.starts_with(b"/") => Err(Errno::PERM),
        _ => Ok(()),
    }
}

/// Opens what `path` leads to from `base`, which it never leaves.
pub(in super::super) fn open(base: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Call<OwnedFd> {
    check(path)?;
    let mode = match flags.contains(OFlags::CREATE) {
        true => NEW_FILE,
        false => Mode::empty(),
    };
    // Of what is no file or directory, opening must not wait for anybody.
    let always = match flags.contains(OFlags::PATH) {
        true => OFlags::CLOEXEC,
        false => OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
    };
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(base, path, flags | always, mode, RESOLVE) {
            Err(Host::AGAIN | Host::INTR) => {}
            // This is how it says that the path leads out.
            Err(Host::XDEV) => return Err(Errno::PERM),
            result => return result.map_err(errno),
        }
    }
    Err(Errno::AGAIN)
}

/// What `path` leads to, opened only to be looked at or named.
fn find(base: BorrowedFd<'_>, path: &[u8], follow: bool) -> Call<OwnedFd> {
    let flags = match follow {
        true => OFlags::PATH,
        false => OFlags::PATH | OFlags::NOFOLLOW,
    };
    open(base, path, flags)
}

/// The directory in which the last name of a path lies, or would.
struct Place {
    directory: OwnedFd,
    /// One name, with a slash behind it if the path has one.
    name: Vec<u8>,
}

fn place(base: BorrowedFd<'_>, path: &[u8]) -> Call<Place> {
    check(path)?;
    let last = path.iter().rposition(|byte| *byte != b'/');
    let (bare, slashes) = path.split_at(last.map_or(0, |last| last + 1));
    let (parent, name) = match bare.iter().rposition(|byte| *byte == b'/') {
        Some(at) => bare.split_at(at + 1),
        None => (&b"."[..], bare),
    };
    // Calls that change something refuse `..` themselves; but not even an error is to tell what
    // lies outside.
    if name == b".." {
        find(base, bare, false)?;
    }
    let slash = slashes.get(..1).unwrap_or_default();
    Ok(Place {
        directory: open(base, parent, OFlags::PATH | OFlags::DIRECTORY)?,
        name: [name, slash].concat(),
    })
}

pub(in super::super) fn make_directory(base: BorrowedFd<'_>, path: &[u8]) -> Call {
    let Place { directory, name } = place(base, path)?;
    rustix::fs::mkdirat(directory, &name[..], NEW_DIRECTORY).map_err(errno)
}

pub(in super::super) fn remove_directory(base: BorrowedFd<'_>, path: &[u8]) -> Call {
    let Place { directory, name } = place(base, path)?;
    rustix::fs::unlinkat(directory, &name[..], AtFlags::REMOVEDIR).map_err(errno)
}

pub(in super::super) fn unlink(base: BorrowedFd<'_>, path: &[u8]) -> Call {
    let Place { directory, name } = place(base, path)?;
    rustix::fs::unlinkat(directory, &name[..], AtFlags::empty()).map_err(errno)
}

pub(in super::super) fn rename(from: (BorrowedFd<'_>, &[u8]), to: (BorrowedFd<'_>, &[u8])) -> Call {
    let (from, to) = (place(from.0, from.1)?, place(to.0, to.1)?);
    let (old, new) = (&from.name[..], &to.name[..]);
    rustix::fs::renameat(from.directory, old, to.directory, new).map_err(errno)
}

/// Gives a file a second name. A link is not followed, but named itself.
pub(in super::super) fn link(from: (BorrowedFd<'_>, &[u8]), to: (BorrowedFd<'_>, &[u8])) -> Call {
    // With a slash behind its name, a link would be followed: to a directory, if to anything, and
    // those have one name only.
    find(from.0, from.1, false)?;
    let (from, to) = (place(from.0, from.1)?, place(to.0, to.1)?);
    let (old, new) = (&from.name[..], &to.name[..]);
    rustix::fs::linkat(from.directory, old, to.directory, new, AtFlags::empty()).map_err(errno)
}

pub(in super::super) fn symlink(target: &[u8], base: BorrowedFd<'_>, path: &[u8]) -> Call {
    // One that begins with a slash would lead nowhere in the process, but elsewhere on the node.
    check(target)?;
    let Place { directory, name } = place(base, path)?;
    rustix::fs::symlinkat(target, directory, &name[..]).map_err(errno)
}

pub(in super::super) fn read_link(base: BorrowedFd<'_>, path: &[u8]) -> Call<CString> {
    let link = find(base, path, false)?;
    match rustix::fs::readlinkat(&link, c"", Vec::new()) {
        // So it is said of what is no link.
        Err(Host::NOENT) => Err(Errno::INVAL),
        other => other.map_err(errno),
    }
}

pub(in super::super) fn stat(base: BorrowedFd<'_>, path: &[u8], follow: bool) -> Call<Stat> {
    let found = find(base, path, follow)?;
    rustix::fs::fstat(found).map_err(errno)
}

pub(in super::super) fn set_times(
    base: BorrowedFd<'_>,
    path: &[u8],
    follow: bool,
    times: &Timestamps,
) -> Call {
    let found = find(base, path, follow)?;
    rustix::fs::utimensat(found, c"", times, AtFlags::EMPTY_PATH).map_err(errno)
}

/// The path of an open file as it is now, from the root of its volume; none if it has been removed,
/// or taken out of the volume.
pub(in super::super) fn path_of(root: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let told = |file: BorrowedFd<'_>| {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new()).ok()?;
        Some(path.into_bytes())
    };
    let (above, path) = (told(root)?, told(file)?);
    let path = match path.strip_prefix(&above[..])? {
        b"" => b".".to_vec(),
        inside => inside.strip_prefix(b"/").unwrap_or(inside).to_vec(),
    };
    // A removed file is told of too, under a name that may be another one's.
    let there = stat(root, &path, false).ok()?;
    let here = rustix::fs::fstat(file).ok()?;
    let same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino);
    same.then_some(path)
}
