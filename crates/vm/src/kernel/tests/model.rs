//! The file tree, and a volume, against the file system of the machine that the test runs on: the
//! same random steps in both, the same answers and errors from both.

use super::super::abi::{Errno, fdflags, fstflags, oflags, rights};
use super::super::transfer::Vectored;
use super::volumes::Scratch;
use super::{Bench, DATA, LIST, OTHER_PATH, OUT, bench};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, SeekFrom, Timespec, Timestamps};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What Linux calls it.
fn errno(error: rustix::io::Errno) -> Errno {
    match error.raw_os_error() {
        1 => Errno::PERM,
        2 => Errno::NOENT,
        16 => Errno::BUSY,
        17 => Errno::EXIST,
        20 => Errno::NOTDIR,
        21 => Errno::ISDIR,
        22 => Errno::INVAL,
        39 => Errno::NOTEMPTY,
        40 => Errno::LOOP,
        other => panic!("unexpected error {other:?}"),
    }
}

/// Files that are open at a time.
const OPEN: usize = 5;

/// A file that is open in both.
struct Open {
    ours: u32,
    theirs: OwnedFd,
    appends: bool,
}

struct Pair {
    bench: Bench,
    root: PathBuf,
    dice: fastrand::Rng,
    open: Vec<Open>,
}

type Ours = Result<Vec<u8>, Errno>;
type Theirs = Result<Vec<u8>, rustix::io::Errno>;

/// Size, links and type of a file: what both tell alike.
fn facts(size: u64, links: u64, filetype: u8) -> Vec<u8> {
    let (size, links) = match filetype {
        // What a directory is said to have differs from one file system to the next.
        3 => (0, 0),
        _ => (size, links),
    };
    format!("{size} bytes, {links} links, type {filetype}").into_bytes()
}

fn their_facts(stat: &rustix::fs::Stat) -> Vec<u8> {
    let filetype = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => 3,
        rustix::fs::FileType::RegularFile => 4,
        rustix::fs::FileType::Symlink => 7,
        other => panic!("unexpected {other:?}"),
    };
    facts(stat.st_size as u64, stat.st_nlink, filetype)
}

fn nothing<T>(_: T) -> Vec<u8> {
    Vec::new()
}

impl Pair {
    /// A tree and an empty directory.
    fn new(seed: u64) -> Pair {
        Pair::with(seed, bench())
    }

    /// What the bench's paths start from, and an empty directory.
    fn with(seed: u64, bench: Bench) -> Pair {
        let name = format!("limosa-model-{}-{seed}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        Pair {
            bench,
            root,
            dice: fastrand::Rng::with_seed(seed),
            open: Vec::new(),
        }
    }

    /// A path of few names, so that paths meet; sometimes with a detour or a slash at the end.
    fn path(&mut self) -> String {
        let depth = self.dice.usize(1..4);
        let names = ["a", "b", "c", "a", "b"];
        let mut parts: Vec<&str> = (0..depth)
            .map(|_| names[self.dice.usize(..names.len())])
            .collect();
        if self.dice.u8(..10) == 0 {
            parts.insert(self.dice.usize(..=parts.len()), ".");
        }
        if self.dice.u8(..10) == 0 {
            let at = self.dice.usize(..=parts.len());
            parts.splice(at..at, ["a", ".."]);
        }
        let slash = if self.dice.u8(..15) == 0 { "/" } else { "" };
        parts.join("/") + slash
    }

    fn host(&self, path: &str) -> PathBuf {
        // Not `join`: it would keep a final slash, but `Path` methods might drop it.
        PathBuf::from(format!("{}/{path}", self.root.display()))
    }

    fn step(&mut self, number: usize) {
        match self.dice.u8(..24) {
            0..=13 => self.step_on_path(number),
            14..=16 => self.step_open(number),
            _ => self.step_on_open_file(number),
        }
    }

    fn step_on_path(&mut self, number: usize) {
        let path = self.path();
        let host = self.host(&path);
        let bytes = path.as_bytes();
        let what = format!("step {number}: {path}");
        let follow = self.dice.bool();
        let at_flags = match follow {
            true => AtFlags::empty(),
            false => AtFlags::SYMLINK_NOFOLLOW,
        };
        match self.dice.u8(..11) {
            0 | 1 => {
                let ours = self.bench.make_directory(bytes).map(nothing);
                let theirs = rustix::fs::mkdir(&host, Mode::RWXU).map(nothing);
                self.compare(&format!("{what} made a directory"), ours, theirs);
            }
            2 => {
                let ours = self.bench.remove_directory(bytes).map(nothing);
                let theirs = rustix::fs::rmdir(&host).map(nothing);
                self.compare(&format!("{what} removed, a directory"), ours, theirs);
            }
            3 => {
                let ours = self.bench.unlink(bytes).map(nothing);
                let theirs = rustix::fs::unlink(&host).map(nothing);
                self.compare(&format!("{what} removed"), ours, theirs);
            }
            4 | 5 => {
                let to = self.path();
                let ours = self.bench.rename(bytes, to.as_bytes()).map(nothing);
                let theirs = rustix::fs::rename(&host, self.host(&to)).map(nothing);
                self.compare(&format!("{what} renamed to {to}"), ours, theirs);
            }
            6 => {
                let to = self.path();
                let ours = self.bench.link(bytes, to.as_bytes()).map(nothing);
                let theirs = rustix::fs::link(&host, self.host(&to)).map(nothing);
                self.compare(&format!("{what} linked as {to}"), ours, theirs);
            }
            7 => {
                // They meet each other: chains, circles, and links to what is not there.
                let targets = [
                    "a", "b", "c", "b/c", "./a", "c/b/a", "a/", "b/./c", "c/a/..",
                ];
                let target = targets[self.dice.usize(..targets.len())];
                let ours = self.bench.symlink(target.as_bytes(), bytes).map(nothing);
                let theirs = rustix::fs::symlink(target, &host).map(nothing);
                self.compare(&format!("{what} -> {target}"), ours, theirs);
            }
            8 => {
                let ours = self.bench.stat(bytes, follow);
                let ours = ours.map(|(_, filetype, links, size)| facts(size, links, filetype));
                let theirs = rustix::fs::statat(CWD, &host, at_flags);
                let theirs = theirs.map(|stat| their_facts(&stat));
                self.compare(&format!("{what} looked at, {follow}"), ours, theirs);
            }
            9 => {
                let ours = self.bench.read_link(bytes, 100);
                let theirs = rustix::fs::readlink(&host, Vec::new());
                let theirs = theirs.map(|target| target.into_bytes());
                self.compare(&format!("{what} read as a link"), ours, theirs);
            }
            _ => {
                let (accessed, modified) = (self.dice.u32(..), self.dice.u32(..));
                let ours = self.set_times(bytes, follow, accessed.into(), modified.into());
                let time = |nanoseconds: u32| Timespec {
                    tv_sec: i64::from(nanoseconds / 1_000_000_000),
                    tv_nsec: i64::from(nanoseconds % 1_000_000_000),
                };
                let times = Timestamps {
                    last_access: time(accessed),
                    last_modification: time(modified),
                };
                let theirs = rustix::fs::utimensat(CWD, &host, &times, at_flags);
                let theirs = theirs.and_then(|()| {
                    let stat = rustix::fs::statat(CWD, &host, at_flags)?;
                    let nanoseconds =
                        |seconds: i64, rest: u64| seconds as u64 * 1_000_000_000 + rest;
                    let accessed = nanoseconds(stat.st_atime, stat.st_atime_nsec);
                    let modified = nanoseconds(stat.st_mtime, stat.st_mtime_nsec);
                    Ok(format!("{accessed} {modified}").into_bytes())
                });
                self.compare(&format!("{what} times set, {follow}"), ours, theirs);
            }
        }
    }

    /// Sets times by path, and tells what they are then.
    fn set_times(&mut self, path: &[u8], follow: bool, accessed: u64, modified: u64) -> Ours {
        let flags = fstflags::ATIM | fstflags::MTIM;
        let place = self.bench.put(OTHER_PATH, path);
        let base = self.bench.base;
        self.bench.call(|kernel, guest| {
            let at = (base, follow.into());
            kernel.path_filestat_set_times(guest, at, place, (accessed, modified, flags))
        })?;
        self.bench.stat(path, follow)?;
        let (accessed, modified) = (self.bench.u64(DATA + 40), self.bench.u64(DATA + 48));
        Ok(format!("{accessed} {modified}").into_bytes())
    }

    fn step_open(&mut self, number: usize) {
        if self.open.len() >= OPEN {
            let closed = self.open.remove(self.dice.usize(..OPEN));
            self.bench.close(closed.ours).unwrap();
        }
        let path = self.path();
        let flags = [oflags::CREAT, oflags::EXCL, oflags::TRUNC]
            .into_iter()
            .filter(|_| self.dice.u8(..5) < 2)
            .fold(0, |all, flag| all | flag);
        // What exclusive means without creating is left open.
        let flags = match flags & oflags::CREAT {
            0 => flags & !oflags::EXCL,
            _ => flags,
        };
        let (appends, follow) = (self.dice.u8(..4) == 0, self.dice.u8(..4) > 0);
        let fdflags = if appends { fdflags::APPEND } else { 0 };
        let ours =
            self.bench
                .open_with(path.as_bytes(), flags, rights::ALL, follow, fdflags.into());
        let mut theirs = OFlags::RDWR | OFlags::CLOEXEC;
        theirs.set(OFlags::CREATE, flags & oflags::CREAT != 0);
        theirs.set(OFlags::EXCL, flags & oflags::EXCL != 0);
        theirs.set(OFlags::TRUNC, flags & oflags::TRUNC != 0);
        theirs.set(OFlags::APPEND, appends);
        theirs.set(OFlags::NOFOLLOW, !follow);
        let theirs = rustix::fs::open(self.host(&path), theirs, Mode::RUSR | Mode::WUSR);
        let what = format!("step {number}: {path} opened, {flags}, {follow}");
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => self.open.push(Open {
                ours,
                theirs,
                appends,
            }),
            (ours, theirs) => self.compare(&what, ours.map(nothing), theirs.map(nothing)),
        }
    }

    fn step_on_open_file(&mut self, number: usize) {
        if self.open.is_empty() {
            return;
        }
        let index = self.dice.usize(..self.open.len());
        let (ours, appends) = (self.open[index].ours, self.open[index].appends);
        let what = format!("step {number}: open file {index}");
        // Mostly small; sometimes over the border of a chunk.
        let far = if self.dice.u8(..6) == 0 { 70_000 } else { 300 };
        let length = self.dice.usize(..200);
        let offset = self.dice.u64(..far);
        let bytes = vec![self.dice.u8(1..); length];
        let mut buffer = vec![0; length];
        match self.dice.u8(..9) {
            0 | 1 => {
                let ours = self
                    .bench
                    .write(ours, &bytes)
                    .map(|count| vec![count as u8]);
                let theirs = rustix::io::write(&self.open[index].theirs, &bytes);
                let theirs = theirs.map(|count| vec![count as u8]);
                self.compare(&format!("{what}: {length} written"), ours, theirs);
            }
            2 | 3 => {
                let ours = self.bench.read(ours, length as u32);
                let theirs = rustix::io::read(&self.open[index].theirs, &mut buffer);
                let theirs = theirs.map(|count| buffer[..count].to_vec());
                self.compare(&format!("{what}: {length} read"), ours, theirs);
            }
            4 => {
                let back = self.dice.u8(..4) == 0;
                let by = if back {
                    -(offset as i64)
                } else {
                    offset as i64
                };
                let whence = self.dice.u32(..3);
                let ours = self.bench.call(|kernel, guest| {
                    kernel.fd_seek(guest, ours, by.cast_unsigned(), whence, OUT)
                });
                let ours = ours.map(|()| self.bench.u64(OUT).to_le_bytes().to_vec());
                let to = match whence {
                    0 if back && by < 0 => SeekFrom::Current(i64::MIN),
                    0 => SeekFrom::Start(offset),
                    1 => SeekFrom::Current(by),
                    _ => SeekFrom::End(by),
                };
                let theirs = rustix::fs::seek(&self.open[index].theirs, to);
                let theirs = theirs.map(|position| position.to_le_bytes().to_vec());
                self.compare(&format!("{what}: moved by {by}, {whence}"), ours, theirs);
            }
            5 => {
                let ours = self
                    .bench
                    .call(|kernel, guest| kernel.fd_filestat_set_size(guest, ours, offset));
                let theirs = rustix::fs::ftruncate(&self.open[index].theirs, offset);
                let (ours, theirs) = (ours.map(nothing), theirs.map(nothing));
                self.compare(&format!("{what}: {offset} long"), ours, theirs);
            }
            6 => {
                let call = self.bench.one_buffer(ours, length as u32);
                let ours = self
                    .bench
                    .call(|kernel, guest| kernel.fd_pread(guest, call, offset));
                let count = self.bench.u32(OUT) as usize;
                let ours = ours.map(|()| self.bench.memory[DATA as usize..][..count].to_vec());
                let theirs = rustix::io::pread(&self.open[index].theirs, &mut buffer, offset);
                let theirs = theirs.map(|count| buffer[..count].to_vec());
                self.compare(&format!("{what}: {length} read at {offset}"), ours, theirs);
            }
            // Linux, against POSIX, appends here too.
            7 if !appends => {
                self.bench.put(DATA, &bytes);
                // In two buffers.
                let (first, second) = (length / 3, length - length / 3);
                let list = [DATA, first as u32, DATA + first as u32, second as u32];
                let list: Vec<u8> = list.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.bench.put(LIST, &list);
                let call = Vectored {
                    descriptor: ours,
                    list: LIST,
                    count: 2,
                    out: OUT,
                };
                let ours = self
                    .bench
                    .call(|kernel, guest| kernel.fd_pwrite(guest, call, offset));
                let ours = ours.map(|()| vec![self.bench.u32(OUT) as u8]);
                let theirs = rustix::io::pwrite(&self.open[index].theirs, &bytes, offset);
                let theirs = theirs.map(|count| vec![count as u8]);
                self.compare(
                    &format!("{what}: {length} written at {offset}"),
                    ours,
                    theirs,
                );
            }
            _ => {
                let ours = self
                    .bench
                    .call(|kernel, guest| kernel.fd_filestat_get(guest, ours, DATA));
                let (links, size) = (self.bench.u64(DATA + 24), self.bench.u64(DATA + 32));
                let ours = ours.map(|()| facts(size, links, 4));
                let theirs = rustix::fs::fstat(&self.open[index].theirs);
                let theirs = theirs.map(|stat| their_facts(&stat));
                self.compare(&format!("{what}: looked at"), ours, theirs);
            }
        }
    }

    fn compare(&self, what: &str, ours: Ours, theirs: Theirs) {
        let theirs = theirs.map_err(errno);
        let shown = |result: &Ours| {
            let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
            result.as_ref().map(text).map_err(|error| *error)
        };
        assert!(
            ours == theirs,
            "{what}: {:?} here, {:?} there",
            shown(&ours),
            shown(&theirs)
        );
    }

    /// Both trees, as lists of path, kind, links and content.
    /// `own` is where the bench's lies, if it is a volume.
    fn compare_trees(&mut self, own: Option<&Path>) {
        let mut paths = vec![PathBuf::new()];
        while let Some(path) = paths.pop() {
            let name = match path.as_os_str().as_bytes() {
                b"" => b".".to_vec(),
                name => name.to_vec(),
            };
            let directory = self
                .bench
                .open_with(&name, 0, rights::FD_READDIR, false, 0)
                .unwrap();
            let mut ours = self.bench.list(directory, 64).unwrap();
            self.bench.close(directory).unwrap();
            ours.retain(|name| name != b"." && name != b"..");
            ours.sort();
            let entries = fs::read_dir(self.root.join(&path)).unwrap();
            let entries = entries.map(|entry| entry.unwrap().file_name().as_bytes().to_vec());
            let mut theirs: Vec<_> = entries.collect();
            theirs.sort();
            assert_eq!(ours, theirs, "{}", path.display());
            for name in ours {
                let child = path.join(std::ffi::OsStr::from_bytes(&name));
                let metadata = fs::symlink_metadata(self.root.join(&child)).unwrap();
                let bytes = child.as_os_str().as_bytes().to_vec();
                let (inode, filetype, links, size) = self.bench.stat(&bytes, false).unwrap();
                let kind = (metadata.is_dir(), metadata.is_file(), metadata.is_symlink());
                assert_eq!((filetype == 3, filetype == 4, filetype == 7), kind);
                if metadata.is_dir() {
                    paths.push(child);
                    continue;
                }
                assert_eq!((links, size), (metadata.nlink(), metadata.len()));
                if metadata.is_file() {
                    let ours = match own {
                        Some(root) => fs::read(root.join(&child)).unwrap(),
                        None => self.bench.kernel.tree.content(inode).unwrap().to_vec(),
                    };
                    let theirs = fs::read(self.root.join(&child)).unwrap();
                    assert!(ours == theirs, "{}", child.display());
                }
            }
        }
        assert_eq!(
            self.bench.kernel.tree.used(),
            self.bench.kernel.tree.recount()
        );
    }
}

#[test]
fn the_tree_does_what_the_machine_s_own_file_system_does() {
    for seed in 0..80 {
        let mut pair = Pair::new(seed);
        println!("seed {seed}");
        for number in 0..600 {
            pair.step(number);
            // As after every call of a program.
            pair.bench.kernel.completed();
            if number % 50 == 49 {
                pair.compare_trees(None);
            }
        }
        fs::remove_dir_all(&pair.root).unwrap();
    }
}

#[test]
fn a_volume_does_what_the_machine_s_own_file_system_does_whenever_it_is_thawed_anew() {
    // Other seeds than those of the tree, whose directories are named after them.
    for seed in 2000..2030 {
        println!("seed {seed}");
        let scratch = Scratch::new(&format!("volume-{seed}"));
        let mut pair = Pair::with(seed, scratch.bench());
        let mut thawed = 0;
        for number in 0..600 {
            pair.step(number);
            pair.bench.kernel.completed();
            // Not while a file is open that has been removed: that cannot be written down.
            if number % 20 == 19 && scratch.thaw_anew(&mut pair.bench).is_ok() {
                thawed += 1;
            }
            if number % 50 == 49 {
                pair.compare_trees(Some(&scratch.volume()));
            }
        }
        assert!(thawed > 0, "seed {seed}");
        fs::remove_dir_all(&pair.root).unwrap();
    }
}

/// What is done to a file or directory, and the path whose times are looked at.
type Change = (&'static str, &'static str, fn(&mut Pair));

#[test]
fn modification_times_move_when_the_machine_s_own_would() {
    let changes: &[Change] = &[
        ("a write", "f", |pair| pair.on_file(0, b"new", None)),
        ("a write of nothing", "f", |pair| pair.on_file(0, b"", None)),
        ("a read", "f", |pair| pair.on_file(0, b"", Some(3))),
        ("opening", "f", |pair| pair.on_file(0, b"", None)),
        ("truncating as it is opened", "f", |pair| {
            pair.on_file(oflags::TRUNC, b"", None);
        }),
        ("a rename", "f", |pair| pair.rename("f", "d/g")),
        ("a rename away", ".", |pair| pair.rename("f", "d/g")),
        ("a rename into it", "d", |pair| pair.rename("f", "d/g")),
        ("a link", "f", |pair| pair.link("f", "d/g")),
        ("a link in it", "d", |pair| pair.link("f", "d/g")),
        ("a link elsewhere", ".", |pair| pair.link("f", "d/g")),
        ("a removal", "d", |pair| {
            pair.bench.unlink(b"d/x").unwrap();
            rustix::fs::unlink(pair.host("d/x")).unwrap();
        }),
        ("a removal below", ".", |pair| {
            pair.bench.unlink(b"d/x").unwrap();
            rustix::fs::unlink(pair.host("d/x")).unwrap();
        }),
    ];
    for (number, (what, subject, change)) in changes.iter().enumerate() {
        let mut pair = Pair::new(1000 + number as u64);
        pair.make("f");
        pair.bench.make_directory(b"d").unwrap();
        rustix::fs::mkdir(pair.host("d"), Mode::RWXU).unwrap();
        pair.make("d/x");
        for path in [".", "d", "d/x", "f"] {
            pair.set_times(path.as_bytes(), true, 7, 7).unwrap();
            let old = Timespec {
                tv_sec: 0,
                tv_nsec: 7,
            };
            let times = Timestamps {
                last_access: old,
                last_modification: old,
            };
            rustix::fs::utimensat(CWD, pair.host(path), &times, AtFlags::empty()).unwrap();
        }
        change(&mut pair);
        let subject = match pair.bench.stat(subject.as_bytes(), true) {
            Ok(_) => subject,
            Err(_) => "d/g",
        };
        pair.bench.stat(subject.as_bytes(), true).unwrap();
        let ours = pair.bench.u64(DATA + 48) != 7;
        let theirs = rustix::fs::stat(pair.host(subject)).unwrap();
        let theirs = (theirs.st_mtime, theirs.st_mtime_nsec) != (0, 7);
        assert_eq!(ours, theirs, "{what}: {subject}");
        fs::remove_dir_all(&pair.root).unwrap();
    }
}

impl Pair {
    fn make(&mut self, path: &str) {
        let file = self.bench.open(path.as_bytes(), oflags::CREAT).unwrap();
        self.bench.write(file, b"before").unwrap();
        self.bench.close(file).unwrap();
        fs::write(self.host(path), "before").unwrap();
    }

    /// Opens `f` in both, writes `bytes`, or reads if told how many.
    fn on_file(&mut self, flags: u32, bytes: &[u8], read: Option<u32>) {
        let ours = self.bench.open(b"f", flags).unwrap();
        let mut oflags_of_host = OFlags::RDWR;
        oflags_of_host.set(OFlags::TRUNC, flags & oflags::TRUNC != 0);
        let theirs = rustix::fs::open(self.host("f"), oflags_of_host, Mode::empty()).unwrap();
        match read {
            Some(count) => {
                self.bench.read(ours, count).unwrap();
                rustix::io::read(&theirs, &mut [0; 3]).unwrap();
            }
            None => {
                self.bench.write(ours, bytes).unwrap();
                rustix::io::write(&theirs, bytes).unwrap();
            }
        }
        self.bench.close(ours).unwrap();
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.bench.rename(from.as_bytes(), to.as_bytes()).unwrap();
        rustix::fs::rename(self.host(from), self.host(to)).unwrap();
    }

    fn link(&mut self, from: &str, to: &str) {
        self.bench.link(from.as_bytes(), to.as_bytes()).unwrap();
        rustix::fs::link(self.host(from), self.host(to)).unwrap();
    }
}
