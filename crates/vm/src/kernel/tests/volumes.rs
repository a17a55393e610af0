//! Volumes: that nothing leads out of one, and that what is open on one is open again after a thaw.

use super::super::abi::{Errno, fdflags, oflags, rights};
use super::super::files::Open;
use super::super::{Kernel, KernelError};
use super::{Bench, DATA, OUT, PATH, ROOT_DIRECTORY, bench_with_volumes};
use crate::account::Meter;
use crate::memory::Budget;
use crate::torture::Script;
use crate::volumes::{Volume, VolumeError};
use rustix::fs::{CWD, FileType, Mode, RenameFlags};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wire::snapshot::{Binding, Limits, Listener};

/// Where the volume is preopened: after the root of the tree.
const VOLUME: u32 = ROOT_DIRECTORY + 1;

/// A directory that is gone at the end, with a volume in it, and something outside the volume.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Scratch {
        let name = format!("limosa-{name}-{}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        let _ = fs::remove_dir_all(&scratch.0);
        fs::create_dir_all(scratch.volume()).unwrap();
        fs::create_dir(scratch.outside()).unwrap();
        fs::write(scratch.outside().join("secret"), "outside").unwrap();
        scratch
    }

    pub(super) fn volume(&self) -> PathBuf {
        self.0.join("volume")
    }

    fn outside(&self) -> PathBuf {
        self.0.join("outside")
    }

    fn description(&self) -> wire::snapshot::Volume {
        wire::snapshot::Volume {
            source: self.volume().to_str().unwrap().to_owned(),
            destination: "/data".to_owned(),
            binding: Binding::Share,
        }
    }

    /// A kernel whose paths start from the volume.
    pub(super) fn bench(&self) -> Bench {
        let volume = Volume::open(self.description()).unwrap();
        Bench {
            base: VOLUME,
            ..bench_with_volumes(Script::default(), Limits::default(), vec![volume])
        }
    }

    /// Writes the kernel down, and makes another of that. On failure nothing is changed.
    pub(super) fn thaw_anew(&self, bench: &mut Bench) -> Result<(), String> {
        let listeners = vec![Listener {
            name: "first".to_owned(),
            queue: Vec::new(),
        }];
        let (mut state, (_, volumes)) = bench.kernel.put_away();
        state.descriptors = volumes.save(&state.descriptors)?;
        state.listeners = listeners;
        let mut ports = bench.kernel.ports.clone();
        ports.volumes = Arc::new([Volume::open(self.description()).unwrap()]);
        let meter = Meter::new(0, 0, Arc::new(Budget::new(0)));
        bench.kernel = Kernel::load(state, ports, Arc::default(), meter)
            .map_err(|error: KernelError| error.to_string())?;
        Ok(())
    }

    /// Nothing outside the volume has been touched.
    fn assert_unharmed(&self) {
        let names = fs::read_dir(self.outside()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        let secret = fs::read(self.outside().join("secret")).unwrap();
        assert_eq!(secret, b"outside");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn no_path_and_no_link_leads_out_of_a_volume() {
    let scratch = Scratch::new("ways-out");
    let (volume, outside) = (scratch.volume(), scratch.outside());
    fs::create_dir(volume.join("d")).unwrap();
    symlink("../outside", volume.join("up")).unwrap();
    symlink(&outside, volume.join("absolute")).unwrap();
    symlink("up", volume.join("chain")).unwrap();
    symlink("/proc/self/root", volume.join("magic")).unwrap();
    symlink("../../outside/secret", volume.join("d/file")).unwrap();
    let mut bench = scratch.bench();
    let ways = [
        "../outside/secret",
        "d/../../outside/secret",
        "up/secret",
        "absolute/secret",
        "chain/secret",
        "magic/etc/passwd",
        "d/file",
        "d/../d/../../outside/secret",
        "/etc/passwd",
    ];
    for way in ways {
        let bytes = way.as_bytes();
        let all = [
            0,
            oflags::CREAT,
            oflags::TRUNC,
            oflags::CREAT | oflags::TRUNC,
        ];
        for flags in all {
            assert_eq!(bench.open(bytes, flags), Err(Errno::PERM), "{way}");
        }
        assert_eq!(bench.stat(bytes, true), Err(Errno::PERM), "{way}");
        // A link at the end of a path is not followed by what acts on names.
        if way == "d/file" {
            continue;
        }
        assert_eq!(bench.stat(bytes, false), Err(Errno::PERM), "{way}");
        assert_eq!(bench.make_directory(bytes), Err(Errno::PERM), "{way}");
        assert_eq!(bench.remove_directory(bytes), Err(Errno::PERM), "{way}");
        assert_eq!(bench.unlink(bytes), Err(Errno::PERM), "{way}");
        assert_eq!(bench.rename(bytes, b"d/x"), Err(Errno::PERM), "{way}");
        assert_eq!(bench.rename(b"d", bytes), Err(Errno::PERM), "{way}");
        assert_eq!(bench.link(bytes, b"d/x"), Err(Errno::PERM), "{way}");
        assert_eq!(bench.symlink(b"d", bytes), Err(Errno::PERM), "{way}");
        assert_eq!(bench.read_link(bytes, 100), Err(Errno::PERM), "{way}");
    }
    for way in ["..", "d/../.."] {
        let bytes = way.as_bytes();
        assert_eq!(bench.open(bytes, 0), Err(Errno::PERM), "{way}");
        assert_eq!(bench.remove_directory(bytes), Err(Errno::PERM), "{way}");
        assert_eq!(bench.rename(bytes, b"d/x"), Err(Errno::PERM), "{way}");
    }
    // A link that leads out of the volume for others is not made either.
    assert_eq!(bench.symlink(b"/etc/passwd", b"new"), Err(Errno::PERM));
    scratch.assert_unharmed();
}

#[test]
fn nobody_wins_a_race_against_a_path() {
    let scratch = Scratch::new("race");
    let (volume, outside) = (scratch.volume(), scratch.outside());
    fs::create_dir(volume.join("d")).unwrap();
    fs::write(volume.join("d/secret"), "inside").unwrap();
    symlink(&outside, volume.join("absolute")).unwrap();
    symlink("../outside", volume.join("relative")).unwrap();
    let over = AtomicBool::new(false);
    let mut bench = scratch.bench();
    let (mut seen, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // What is a directory now is a link that leads out a moment later.
        scope.spawn(|| {
            let paths = ["d", "absolute", "relative"].map(|name| volume.join(name));
            let mut turn = 0;
            while !over.load(Ordering::Relaxed) {
                let (one, other) = (&paths[turn % 3], &paths[(turn + 1) % 3]);
                let exchange = RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, one, CWD, other, exchange).unwrap();
                turn += 1;
            }
        });
        for turn in 0..6000 {
            let what = format!("new{}", turn % 7);
            for name in ["d", "absolute", "relative"] {
                let path = |inside: &str| format!("{name}/{inside}").into_bytes();
                match bench.open_with(&path("secret"), 0, rights::FD_READ, true, 0) {
                    Ok(file) => {
                        assert_eq!(bench.read(file, 100).unwrap(), b"inside");
                        bench.close(file).unwrap();
                        seen += 1;
                    }
                    Err(_) => refused += 1,
                }
                let new = path(&what);
                let _ = match turn % 4 {
                    0 => bench.make_directory(&new),
                    1 => bench.symlink(b"d", &new),
                    2 => bench.rename(&path("secret"), &path("secret")),
                    _ => bench.open(&new, oflags::CREAT | oflags::TRUNC).map(|file| {
                        bench.write(file, b"x").unwrap();
                        bench.close(file).unwrap();
                    }),
                };
                let _ = bench.remove_directory(&new);
                let _ = bench.unlink(&new);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(seen > 0 && refused > 0, "{seen} seen, {refused} refused");
    scratch.assert_unharmed();
}

#[test]
fn what_is_open_on_a_volume_is_open_after_a_thaw_wherever_it_was_renamed_to() {
    let scratch = Scratch::new("thaw");
    let mut bench = scratch.bench();
    bench.make_directory(b"d").unwrap();
    let file = bench.open(b"d/a", oflags::CREAT).unwrap();
    let directory = bench
        .open_with(b"d", 0, rights::DIRECTORY, true, 0)
        .unwrap();
    bench.write(file, b"0123456789").unwrap();
    bench
        .call(|kernel, guest| kernel.fd_seek(guest, file, 4, 0, OUT))
        .unwrap();
    bench.rename(b"d", b"e").unwrap();
    bench.rename(b"e/a", b"b (deleted)").unwrap();
    scratch.thaw_anew(&mut bench).unwrap();
    assert_eq!(bench.read(file, 3).unwrap(), b"456");
    bench.write(file, b"x").unwrap();
    let content = fs::read(scratch.volume().join("b (deleted)")).unwrap();
    assert_eq!(content, b"0123456x89");
    assert_eq!(bench.list(directory, 500).unwrap().len(), 2);

    // Its name is another file's now.
    bench.unlink(b"b (deleted)").unwrap();
    fs::write(scratch.volume().join("b (deleted)"), "other").unwrap();
    let refusal = scratch.thaw_anew(&mut bench).unwrap_err();
    assert!(refusal.contains("`/data`"), "{refusal}");
    // As long as it is open it can be used here.
    assert_eq!(bench.read(file, 3).unwrap(), b"89");
    bench.close(file).unwrap();
    scratch.thaw_anew(&mut bench).unwrap();

    fs::remove_dir(scratch.volume().join("e")).unwrap();
    let refusal = scratch.thaw_anew(&mut bench).unwrap_err();
    assert!(refusal.contains("`e`"), "{refusal}");
}

#[test]
fn a_file_that_is_not_there_at_the_thaw_is_named() {
    let scratch = Scratch::new("missing");
    let mut bench = scratch.bench();
    bench.open(b"a", oflags::CREAT).unwrap();
    let (mut state, _) = bench.kernel.put_away();
    state.descriptors.remove(&super::LISTENER);
    let load = |volumes: Vec<Volume>| {
        let mut ports = bench.kernel.ports.clone();
        ports.volumes = volumes.into();
        let meter = Meter::new(0, 0, Arc::new(Budget::new(0)));
        Kernel::load(state.clone(), ports, Arc::default(), meter).map(|_| ())
    };
    let volume = || Volume::open(scratch.description()).unwrap();
    load(vec![volume()]).unwrap();
    fs::rename(scratch.volume().join("a"), scratch.outside().join("a")).unwrap();
    let error = load(vec![volume()]).unwrap_err().to_string();
    assert!(
        error.contains("`a`") && error.contains("`/data`"),
        "{error}"
    );
    symlink("../outside/a", scratch.volume().join("a")).unwrap();
    let error = load(vec![volume()]).unwrap_err().to_string();
    assert!(error.contains("`a`"), "{error}");
    fs::remove_file(scratch.volume().join("a")).unwrap();
    fs::create_dir(scratch.volume().join("a")).unwrap();
    let error = load(vec![volume()]).unwrap_err().to_string();
    assert!(error.contains("`a`"), "{error}");
    assert!(load(Vec::new()).is_err());
}

#[test]
fn pipes_and_devices_on_a_volume_are_not_opened_and_wait_for_nobody() {
    let scratch = Scratch::new("special");
    let pipe = scratch.volume().join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _door = std::os::unix::net::UnixListener::bind(scratch.volume().join("door")).unwrap();
    let mut bench = scratch.bench();
    for rights in [rights::FD_READ, rights::FD_READ | rights::FD_WRITE] {
        let opened = bench.open_with(b"pipe", 0, rights, true, 0);
        assert_eq!(opened, Err(Errno::NOTSUP));
    }
    let opened = bench.open_with(b"pipe", 0, rights::FD_WRITE, true, 0);
    assert_eq!(opened, Err(Errno::NXIO));
    assert_eq!(bench.open(b"door", 0), Err(Errno::NXIO));
    // What was refused leaves nothing open behind.
    assert_eq!(bench.kernel.descriptors.len(), 6);
}

#[test]
fn nothing_is_renamed_or_linked_from_one_file_system_to_another() {
    let scratch = Scratch::new("across");
    let mut bench = scratch.bench();
    bench.open(b"on-volume", oflags::CREAT).unwrap();
    bench.base = ROOT_DIRECTORY;
    bench.open(b"in-tree", oflags::CREAT).unwrap();
    for (from_base, from, to_base) in [
        (VOLUME, &b"on-volume"[..], ROOT_DIRECTORY),
        (ROOT_DIRECTORY, b"in-tree", VOLUME),
    ] {
        let (from, from_length) = bench.put(PATH, from);
        let (to, to_length) = bench.put(DATA, b"new");
        let (from, to) = ((from_base, from, from_length), (to_base, to, to_length));
        let renamed = bench.call(|kernel, guest| kernel.path_rename(guest, from, to));
        assert_eq!(renamed, Err(Errno::XDEV));
        let linked = bench.call(|kernel, guest| kernel.path_link(guest, 0, from, to));
        assert_eq!(linked, Err(Errno::XDEV));
    }
}

#[test]
fn two_processes_append_to_one_file_without_losing_anything() {
    let scratch = Scratch::new("append");
    let writer = |letter: u8| {
        let scratch = &scratch;
        move || {
            let mut bench = scratch.bench();
            let (flags, append) = (oflags::CREAT, u32::from(fdflags::APPEND));
            let file = bench.open_with(b"log", flags, rights::ALL, true, append);
            let file = file.unwrap();
            for _ in 0..500 {
                assert_eq!(bench.write(file, &[letter; 7]), Ok(7));
            }
            bench
                .call(|kernel, guest| kernel.fd_tell(guest, file, OUT))
                .unwrap();
            assert_eq!(bench.u64(OUT) % 7, 0);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(writer(b'a'));
        scope.spawn(writer(b'b'));
    });
    let log = fs::read(scratch.volume().join("log")).unwrap();
    assert_eq!(log.len(), 7000);
    assert!(
        log.chunks(7)
            .all(|line| line.iter().all(|letter| letter == &line[0]))
    );
}

#[test]
fn a_volume_is_opened_only_within_what_may_be_given() {
    let scratch = Scratch::new("allowed");
    let allowed = [scratch.volume()];
    let ask = |source: PathBuf| {
        let description = wire::snapshot::Volume {
            source: source.to_str().unwrap().to_owned(),
            ..scratch.description()
        };
        Volume::open_within(description, &allowed).map(|_| ())
    };
    fs::create_dir(scratch.volume().join("d")).unwrap();
    symlink("../outside", scratch.volume().join("up")).unwrap();
    assert_eq!(ask(scratch.volume()), Ok(()));
    assert_eq!(ask(scratch.volume().join("d")), Ok(()));
    assert!(matches!(
        ask(scratch.outside()),
        Err(VolumeError::NotAllowed { .. })
    ));
    for way_out in ["../outside", "d/../../outside", "up", "none"] {
        let asked = ask(scratch.volume().join(way_out));
        assert!(
            matches!(asked, Err(VolumeError::Unopened { .. })),
            "{way_out}"
        );
    }
}

#[test]
fn a_descriptor_of_a_volume_can_be_renumbered_and_closed() {
    let scratch = Scratch::new("renumber");
    let mut bench = scratch.bench();
    let one = bench.open(b"one", oflags::CREAT).unwrap();
    let two = bench.open(b"two", oflags::CREAT).unwrap();
    bench.write(one, b"1").unwrap();
    bench
        .call(|kernel, guest| kernel.fd_renumber(guest, one, two))
        .unwrap();
    assert_eq!(bench.write(one, b"x"), Err(Errno::BADF));
    bench.write(two, b"2").unwrap();
    bench.close(two).unwrap();
    assert_eq!(bench.write(two, b"x"), Err(Errno::BADF));
    let content = |name| fs::read(scratch.volume().join(name)).unwrap();
    assert_eq!(
        (content("one"), content("two")),
        (b"12".to_vec(), Vec::new())
    );
    // A number that is free again is somebody else's: it must not lead to the old file.
    bench.base = ROOT_DIRECTORY;
    let tree = bench.open(b"in-tree", oflags::CREAT).unwrap();
    bench.write(tree, b"t").unwrap();
    assert_eq!(
        (content("one"), content("two")),
        (b"12".to_vec(), Vec::new())
    );
    let open = Open {
        directory: VOLUME,
        lookup: 0,
        path: PATH,
        path_length: 0,
        flags: 0,
        rights_base: 0,
        rights_inheriting: 0,
        fdflags: 0,
        out: OUT,
    };
    let opened = bench.call(|kernel, guest| kernel.path_open(guest, open));
    assert_eq!(opened, Err(Errno::NOENT));
}
