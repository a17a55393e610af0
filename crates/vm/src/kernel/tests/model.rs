//! The file tree against the file system of the machine that the test runs on: the same random
//! steps in both, the same answers and errors from both.

use super::super::abi::{Errno, oflags, rights};
use super::{Bench, bench};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// What Linux calls it.
fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(1) => Errno::PERM,
        Some(2) => Errno::NOENT,
        Some(16) => Errno::BUSY,
        Some(17) => Errno::EXIST,
        Some(20) => Errno::NOTDIR,
        Some(21) => Errno::ISDIR,
        Some(22) => Errno::INVAL,
        Some(39) => Errno::NOTEMPTY,
        Some(40) => Errno::LOOP,
        other => panic!("unexpected error {other:?}"),
    }
}

struct Pair {
    bench: Bench,
    root: PathBuf,
    dice: fastrand::Rng,
}

impl Pair {
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
        let path = self.path();
        let host = self.host(&path);
        let bytes = path.as_bytes();
        let what = format!("step {number}: {path}");
        let ours: Result<Vec<u8>, Errno>;
        let theirs: io::Result<Vec<u8>>;
        match self.dice.u8(..10) {
            0 | 1 => {
                ours = self.bench.make_directory(bytes).map(|()| vec![]);
                theirs = fs::create_dir(&host).map(|()| vec![]);
            }
            2 => {
                ours = self.bench.remove_directory(bytes).map(|()| vec![]);
                theirs = fs::remove_dir(&host).map(|()| vec![]);
            }
            3 => {
                ours = self.bench.unlink(bytes).map(|()| vec![]);
                theirs = unlink(&host).map(|()| vec![]);
            }
            4 => {
                let to = self.path();
                ours = self.bench.rename(bytes, to.as_bytes()).map(|()| vec![]);
                theirs = fs::rename(&host, self.host(&to)).map(|()| vec![]);
                return self.compare(&format!("{what} renamed to {to}"), ours, theirs);
            }
            5 => {
                let to = self.path();
                ours = self.bench.link(bytes, to.as_bytes()).map(|()| vec![]);
                theirs = fs::hard_link(&host, self.host(&to)).map(|()| vec![]);
                return self.compare(&format!("{what} linked as {to}"), ours, theirs);
            }
            6 => {
                let target = ["a", "b/c", "./a", "c/b/a"][self.dice.usize(..4)];
                ours = self
                    .bench
                    .symlink(target.as_bytes(), bytes)
                    .map(|()| vec![]);
                theirs = symlink(target, &host).map(|()| vec![]);
                return self.compare(&format!("{what} -> {target}"), ours, theirs);
            }
            7 | 8 => {
                let (exclusive, truncate) = (self.dice.bool(), self.dice.bool());
                let flag = |set, flag| if set { flag } else { 0 };
                let flags =
                    oflags::CREAT | flag(exclusive, oflags::EXCL) | flag(truncate, oflags::TRUNC);
                let content = [b'x'; 10];
                ours = self.bench.open(bytes, flags).and_then(|file| {
                    self.bench.write(file, &content)?;
                    self.bench.close(file)?;
                    Ok(vec![])
                });
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true);
                options.custom_flags(flag(exclusive, 0o200) as i32 | flag(truncate, 0o1000) as i32);
                theirs = options.open(&host).and_then(|mut file| {
                    file.write_all(&content)?;
                    Ok(vec![])
                });
                return self.compare(&format!("{what} made, {flags}"), ours, theirs);
            }
            _ => {
                ours = self.bench.open(bytes, 0).and_then(|file| {
                    let content = self.bench.read(file, 1000)?;
                    self.bench.close(file)?;
                    Ok(content)
                });
                let open = OpenOptions::new().read(true).write(true).open(&host);
                theirs = open.and_then(|mut file| {
                    let mut content = Vec::new();
                    file.read_to_end(&mut content)?;
                    Ok(content)
                });
            }
        }
        self.compare(&what, ours, theirs);
    }

    fn compare(&self, what: &str, ours: Result<Vec<u8>, Errno>, theirs: io::Result<Vec<u8>>) {
        let theirs = theirs.map_err(|error| errno(&error));
        assert_eq!(ours, theirs, "{what}");
    }

    /// Both trees, as lists of path, kind, links and content.
    fn compare_trees(&mut self) {
        let mut paths = vec![PathBuf::new()];
        while let Some(path) = paths.pop() {
            let name = match path.as_os_str().as_bytes() {
                b"" => b".".to_vec(),
                name => name.to_vec(),
            };
            let directory = self
                .bench
                .open_with(&name, 0, rights::FD_READ, false, 0)
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
                let (_, filetype, links, size) = self.bench.stat(&bytes, false).unwrap();
                let kind = (metadata.is_dir(), metadata.is_file(), metadata.is_symlink());
                assert_eq!((filetype == 3, filetype == 4, filetype == 7), kind);
                if metadata.is_dir() {
                    paths.push(child);
                } else {
                    assert_eq!((links, size), (metadata.nlink(), metadata.len()));
                }
            }
        }
        assert_eq!(
            self.bench.kernel.tree.used(),
            self.bench.kernel.tree.recount()
        );
    }
}

/// `fs::remove_file` without its own ideas.
fn unlink(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::unlink(path)?)
}

#[test]
fn the_tree_does_what_the_machine_s_own_file_system_does() {
    for seed in 0..60 {
        let name = format!("limosa-model-{}-{seed}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        let mut pair = Pair {
            bench: bench(),
            root: root.clone(),
            dice: fastrand::Rng::with_seed(seed),
        };
        for number in 0..400 {
            pair.step(number);
            if number % 50 == 49 {
                pair.compare_trees();
            }
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
