//! Files and directories: what programs rely on beyond what the model covers.

use super::super::abi::{Errno, fdflags, filetype, oflags, rights};
use super::super::transfer::{Read, Vectored, Write};
use super::{Bench, DATA, DATA_BYTES, LIST, OUT, PATH, ROOT_DIRECTORY, bench, bench_with};
use crate::torture::Script;
use wire::snapshot::Limits;

const CREATE: u32 = oflags::CREAT;
const READING: u64 = rights::ALL & !rights::FD_WRITE;

#[test]
fn no_path_leads_above_its_directory() {
    let mut bench = bench();
    bench.make_directory(b"a").unwrap();
    bench.symlink(b"..", b"up").unwrap();
    bench.symlink(b"../..", b"a/upup").unwrap();
    assert_eq!(bench.symlink(b"/etc", b"absolute"), Err(Errno::PERM));
    for path in [
        "..",
        "../x",
        "a/../..",
        "/",
        "/etc/passwd",
        "up",
        "up/x",
        "a/upup/x",
    ] {
        assert_eq!(bench.open(path.as_bytes(), 0), Err(Errno::PERM), "{path}");
    }
    assert!(
        bench
            .open(b"a/..", 0)
            .is_err_and(|error| error == Errno::ISDIR)
    );
    let opened = bench.open_with(b"a/..", 0, rights::FD_READ, true, 0);
    assert!(opened.is_ok());
}

#[test]
fn links_that_lead_in_circles_are_given_up() {
    let mut bench = bench();
    bench.symlink(b"b", b"a").unwrap();
    bench.symlink(b"a", b"b").unwrap();
    assert_eq!(bench.open(b"a", 0), Err(Errno::LOOP));
    assert_eq!(bench.open(b"a/x", CREATE), Err(Errno::LOOP));
    assert_eq!(
        bench.open_with(b"a", 0, rights::ALL, false, 0),
        Err(Errno::LOOP)
    );
}

#[test]
fn a_file_is_made_through_a_link_that_dangles_but_not_exclusively() {
    let mut bench = bench();
    bench.symlink(b"target", b"link").unwrap();
    assert_eq!(
        bench.open(b"link", CREATE | oflags::EXCL),
        Err(Errno::EXIST)
    );
    bench.open(b"link", CREATE).unwrap();
    assert_eq!(
        bench.stat(b"target", false).unwrap().1,
        filetype::REGULAR_FILE
    );
    assert_eq!(bench.read_link(b"link", 100).unwrap(), b"target");
    assert_eq!(bench.read_link(b"link", 3).unwrap(), b"tar");
    assert_eq!(bench.read_link(b"target", 3), Err(Errno::INVAL));
    bench.symlink(b"target/", b"slash").unwrap();
    assert_eq!(bench.open(b"slash", 0), Err(Errno::NOTDIR));
}

#[test]
fn names_and_paths_have_their_limits() {
    let mut bench = bench();
    assert_eq!(bench.open(b"", 0), Err(Errno::NOENT));
    assert_eq!(bench.open(&[b'x'; 256], CREATE), Err(Errno::NAMETOOLONG));
    assert_eq!(bench.open(&[b'.'; 4097], CREATE), Err(Errno::NAMETOOLONG));
    assert_eq!(bench.open(b"a\0b", CREATE), Err(Errno::INVAL));
    assert!(bench.open(&[b'x'; 255], CREATE).is_ok());
}

#[test]
fn flags_of_open_that_make_no_sense_are_refused() {
    let mut bench = bench();
    bench.make_directory(b"d").unwrap();
    bench.open(b"f", CREATE).unwrap();
    let read = rights::FD_READ;
    let mut open = |path: &[u8], flags, rights| bench.open_with(path, flags, rights, true, 0);
    assert_eq!(
        open(b"x", CREATE | oflags::DIRECTORY, read),
        Err(Errno::INVAL)
    );
    assert_eq!(open(b"x", 16, read), Err(Errno::INVAL));
    assert_eq!(open(b"d", 0, rights::ALL), Err(Errno::ISDIR));
    assert_eq!(open(b"d", CREATE, read), Err(Errno::ISDIR));
    assert_eq!(open(b"d", oflags::TRUNC, read), Err(Errno::ISDIR));
    assert_eq!(open(b"f", oflags::DIRECTORY, read), Err(Errno::NOTDIR));
    assert_eq!(open(b"f/", 0, read), Err(Errno::NOTDIR));
    assert_eq!(open(b"new/", CREATE, read), Err(Errno::ISDIR));
    assert!(open(b"d", 0, read).is_ok());
    assert_eq!(
        open(b"d/", oflags::DIRECTORY, rights::ALL),
        Err(Errno::ISDIR)
    );
    assert!(open(b"d/", oflags::DIRECTORY, READING).is_ok());
}

#[test]
fn rights_to_read_and_to_write_hold() {
    let mut bench = bench();
    bench.open(b"f", CREATE).unwrap();
    let reader = bench.open_with(b"f", 0, rights::FD_READ, true, 0).unwrap();
    let writer = bench.open_with(b"f", 0, rights::FD_WRITE, true, 0).unwrap();
    assert_eq!(bench.write(reader, b"x"), Err(Errno::BADF));
    assert_eq!(bench.read(writer, 1), Err(Errno::BADF));
    assert_eq!(bench.write(writer, b"xy"), Ok(2));
    assert_eq!(bench.read(reader, 10).unwrap(), b"xy");
    let gain = |kernel: &mut super::Kernel, guest: &mut super::Guest<'_>| {
        kernel.fd_fdstat_set_rights(guest, reader, rights::ALL, 0)
    };
    assert_eq!(bench.call(gain), Err(Errno::NOTCAPABLE));
    bench
        .call(|kernel, guest| kernel.fd_fdstat_set_rights(guest, reader, 0, 0))
        .unwrap();
    assert_eq!(bench.read(reader, 10), Err(Errno::BADF));
}

#[test]
fn positions_move_as_they_should() {
    let mut bench = bench();
    let file = bench.open(b"f", CREATE).unwrap();
    bench.write(file, b"0123456789").unwrap();
    let seek = |bench: &mut Bench, offset: i64, whence| {
        let offset = offset.cast_unsigned();
        bench.call(|kernel, guest| kernel.fd_seek(guest, file, offset, whence, OUT))?;
        Ok(bench.u64(OUT))
    };
    assert_eq!(seek(&mut bench, -3, 2), Ok(7));
    assert_eq!(bench.read(file, 10).unwrap(), b"789");
    assert_eq!(bench.read(file, 10).unwrap(), b"");
    assert_eq!(seek(&mut bench, -4, 1), Ok(6));
    assert_eq!(seek(&mut bench, -7, 1), Err(Errno::INVAL));
    assert_eq!(seek(&mut bench, 0, 3), Err(Errno::INVAL));
    assert_eq!(seek(&mut bench, i64::MAX, 0), Ok(i64::MAX as u64));
    assert_eq!(seek(&mut bench, 1, 1), Err(Errno::OVERFLOW));
    assert_eq!(bench.read(file, 10).unwrap(), b"");
    assert_eq!(bench.write(file, b"x"), Err(Errno::FBIG));
    assert_eq!(seek(&mut bench, 12, 0), Ok(12));
    bench.write(file, b"ab").unwrap();
    assert_eq!(seek(&mut bench, 0, 0), Ok(0));
    assert_eq!(bench.read(file, 20).unwrap(), b"0123456789\0\0ab");
    let directory = bench.call(|kernel, guest| kernel.fd_seek(guest, ROOT_DIRECTORY, 0, 0, OUT));
    assert_eq!(directory, Err(Errno::BADF));
    let stream = bench.call(|kernel, guest| kernel.fd_tell(guest, 1, OUT));
    assert_eq!(stream, Err(Errno::SPIPE));
}

#[test]
fn appending_writes_at_the_end_wherever_the_position_is() {
    let mut bench = bench();
    let file = bench.open(b"f", CREATE).unwrap();
    bench.write(file, b"abc").unwrap();
    let append = u32::from(fdflags::APPEND);
    let appender = bench.open_with(b"f", 0, rights::ALL, true, append).unwrap();
    bench.write(appender, b"d").unwrap();
    bench.write(file, b"e").unwrap();
    bench.write(appender, b"f").unwrap();
    let all = bench.open(b"f", 0).unwrap();
    assert_eq!(bench.read(all, 10).unwrap(), b"abcef");
    bench
        .call(|kernel, guest| kernel.fd_fdstat_set_flags(guest, file, append))
        .unwrap();
    bench.write(file, b"g").unwrap();
    assert_eq!(bench.stat(b"f", true).unwrap().3, 6);
}

#[test]
fn vectored_and_positioned_transfers_meet_every_buffer() {
    let mut bench = bench();
    let file = bench.open(b"f", CREATE).unwrap();
    bench.put(DATA, b"abcdefgh");
    let parts = [(DATA, 3), (DATA + 100, 0), (DATA + 3, 5)];
    let list: Vec<u8> = parts
        .iter()
        .flat_map(|&(at, length): &(u32, u32)| [at.to_le_bytes(), length.to_le_bytes()].concat())
        .collect();
    bench.put(LIST, &list);
    let call = Vectored {
        descriptor: file,
        list: LIST,
        count: 3,
        out: OUT,
    };
    assert_eq!(bench.attempt(&mut Write::new(call)).unwrap(), Ok(8));
    bench
        .call(|kernel, guest| kernel.fd_pwrite(guest, call, 20))
        .unwrap();
    assert_eq!(bench.stat(b"f", true).unwrap().3, 28);
    bench.memory[DATA as usize..][..8].fill(0);
    bench
        .call(|kernel, guest| kernel.fd_pread(guest, call, 20))
        .unwrap();
    assert_eq!(bench.u32(OUT), 8);
    assert_eq!(&bench.memory[DATA as usize..][..8], b"abcdefgh");
    assert_eq!(bench.attempt(&mut Read::new(call)).unwrap(), Ok(8));
    let bad = Vectored {
        out: u32::MAX,
        ..call
    };
    assert_eq!(bench.attempt(&mut Read::new(bad)), Err(Errno::FAULT));
    bench
        .call(|kernel, guest| kernel.fd_tell(guest, file, OUT))
        .unwrap();
    assert_eq!(
        bench.u64(OUT),
        16,
        "a read with a bad pointer has no effect"
    );
}

#[test]
fn a_file_that_is_open_outlives_its_name() {
    let mut bench = bench();
    let file = bench.open(b"f", CREATE).unwrap();
    bench.write(file, b"kept").unwrap();
    bench.unlink(b"f").unwrap();
    assert_eq!(bench.stat(b"f", false), Err(Errno::NOENT));
    let read = |bench: &mut Bench| {
        let call = bench.one_buffer(file, 10);
        bench
            .call(|kernel, guest| kernel.fd_pread(guest, call, 0))
            .unwrap();
        bench.u32(OUT)
    };
    assert_eq!(read(&mut bench), 4);
    let used = bench.kernel.tree.used();
    bench.close(file).unwrap();
    assert!(bench.kernel.tree.used() < used - 4);
    assert_eq!(bench.kernel.tree.used(), bench.kernel.tree.recount());
}

#[test]
fn a_directory_that_was_removed_while_open_takes_nothing_new() {
    let mut bench = bench();
    bench.make_directory(b"d").unwrap();
    let directory = bench.open_with(b"d", 0, READING, true, 0).unwrap();
    bench.remove_directory(b"d").unwrap();
    let (path, length) = bench.put(PATH, b"x");
    let made =
        bench.call(|kernel, guest| kernel.path_create_directory(guest, directory, path, length));
    assert_eq!(made, Err(Errno::NOENT));
    assert_eq!(bench.list(directory, 100).unwrap(), [&b"."[..], b".."]);
    bench.close(directory).unwrap();
    assert_eq!(bench.kernel.tree.used(), bench.kernel.tree.recount());
}

#[test]
fn a_directory_is_listed_once_through_any_buffer_while_entries_come_and_go() {
    let mut bench = bench();
    for i in 0..30 {
        let file = bench.open(format!("file{i}").as_bytes(), CREATE).unwrap();
        bench.close(file).unwrap();
    }
    bench.link(b"file3", b"twin").unwrap();
    let root = bench.open_with(b".", 0, READING, true, 0).unwrap();
    let mut expected: Vec<_> = (0..30).map(|i| format!("file{i}").into_bytes()).collect();
    expected.extend([b".".to_vec(), b"..".to_vec(), b"twin".to_vec()]);
    expected.sort();
    for length in [31, 32, 100, 1000, DATA_BYTES] {
        let mut names = bench.list(root, length).unwrap();
        names.sort();
        assert_eq!(names, expected, "{length}");
    }
    // As `rm -r` does: list a little, remove what was listed, go on from the cookie.
    let mut cookie = 0;
    let mut removed = 0;
    loop {
        if bench.list_once(root, 40, cookie).unwrap() == 0 {
            break;
        }
        cookie = bench.u64(DATA);
        let length = bench.u32(DATA + 16);
        let name = bench.memory[DATA as usize + 24..][..length as usize].to_vec();
        if !name.starts_with(b".") {
            bench.unlink(&name).unwrap();
            removed += 1;
        }
    }
    assert_eq!(removed, 31);
}

#[test]
fn room_runs_out_as_on_a_full_disk_and_comes_back() {
    let limits = Limits {
        file_bytes: 10_000,
        descriptors: 8,
        ..Limits::default()
    };
    let mut bench = bench_with(Script::default(), limits);
    let file = bench.open(b"f", CREATE).unwrap();
    assert_eq!(bench.write(file, &[1; 9000]), Ok(9000));
    assert_eq!(bench.write(file, &[1; 1000]), Err(Errno::NOSPC));
    assert_eq!(bench.stat(b"f", true).unwrap().3, 9000);
    let size = |bench: &mut Bench, size| {
        bench.call(|kernel, guest| kernel.fd_filestat_set_size(guest, file, size))
    };
    assert_eq!(size(&mut bench, u64::MAX), Err(Errno::FBIG));
    // A hole takes no room until it is written.
    assert_eq!(size(&mut bench, 1 << 40), Ok(()));
    assert_eq!(bench.stat(b"f", true).unwrap().3, 1 << 40);
    assert_eq!(size(&mut bench, 100), Ok(()));
    let allocate = |bench: &mut Bench, offset, length| bench.allocate(file, offset, length);
    assert_eq!(allocate(&mut bench, 0, 1 << 40), Err(Errno::NOSPC));
    assert_eq!(allocate(&mut bench, 0, 20_000), Err(Errno::NOSPC));
    assert_eq!(bench.stat(b"f", true).unwrap().3, 100);
    assert_eq!(allocate(&mut bench, 0, 0), Err(Errno::INVAL));
    assert_eq!(allocate(&mut bench, u64::MAX, 2), Err(Errno::FBIG));
    assert_eq!(allocate(&mut bench, 50, 20), Ok(()));
    assert_eq!(bench.stat(b"f", true).unwrap().3, 100);
    assert_eq!(allocate(&mut bench, 200, 300), Ok(()));
    assert_eq!(bench.stat(b"f", true).unwrap().3, 500);
    while bench
        .make_directory(format!("d{}", bench.kernel.tree.used()).as_bytes())
        .is_ok()
    {}
    assert_eq!(bench.make_directory(b"one more"), Err(Errno::NOSPC));
    assert_eq!(bench.kernel.tree.used(), bench.kernel.tree.recount());
    let open = |bench: &mut Bench| bench.open_with(b"f", 0, rights::FD_READ, true, 0);
    while open(&mut bench).is_ok() {}
    assert_eq!(open(&mut bench), Err(Errno::MFILE));
}

#[test]
fn times_are_set_as_asked() {
    let mut bench = bench();
    let file = bench.open(b"f", CREATE).unwrap();
    let set = |bench: &mut Bench, times| {
        bench.call(|kernel, guest| kernel.fd_filestat_set_times(guest, file, times))
    };
    let times = |bench: &mut Bench| {
        bench.stat(b"f", true).unwrap();
        (bench.u64(DATA + 40), bench.u64(DATA + 48))
    };
    let now = 1_000_000_000_000;
    assert_eq!(times(&mut bench), (now, now));
    assert_eq!(set(&mut bench, (7, 8, 1 | 4)), Ok(()));
    assert_eq!(times(&mut bench), (7, 8));
    assert_eq!(set(&mut bench, (9, 9, 8)), Ok(()));
    assert_eq!(times(&mut bench), (7, now));
    assert_eq!(set(&mut bench, (9, 9, 1 | 2)), Err(Errno::INVAL));
    assert_eq!(set(&mut bench, (9, 9, 16)), Err(Errno::INVAL));
}

#[test]
fn descriptors_are_the_lowest_free_and_can_be_renumbered() {
    let mut bench = bench();
    let first = bench.open(b"a", CREATE).unwrap();
    let second = bench.open(b"b", CREATE).unwrap();
    assert_eq!((first, second), (5, 6));
    bench.write(second, b"b").unwrap();
    let renumber = |bench: &mut Bench, from, to| {
        bench.call(|kernel, guest| kernel.fd_renumber(guest, from, to))
    };
    assert_eq!(renumber(&mut bench, second, 99), Err(Errno::BADF));
    assert_eq!(renumber(&mut bench, 99, second), Err(Errno::BADF));
    assert_eq!(renumber(&mut bench, second, second), Ok(()));
    assert_eq!(renumber(&mut bench, second, first), Ok(()));
    assert_eq!(bench.close(second), Err(Errno::BADF));
    bench
        .call(|kernel, guest| kernel.fd_tell(guest, first, OUT))
        .unwrap();
    assert_eq!(bench.u64(OUT), 1);
    assert_eq!(bench.open(b"c", CREATE), Ok(6));
    bench.close(0).unwrap();
    assert_eq!(bench.open(b"c", 0), Ok(0));
}

#[test]
fn programs_find_their_directories_after_the_listeners() {
    let mut bench = bench();
    let prestat = |bench: &mut Bench, descriptor| {
        bench.call(|kernel, guest| kernel.fd_prestat_get(guest, descriptor, OUT))?;
        Ok((bench.memory[OUT as usize], bench.u32(OUT + 4)))
    };
    assert_eq!(prestat(&mut bench, 3), Ok((1, 0)));
    assert_eq!(prestat(&mut bench, 4), Ok((0, 1)));
    assert_eq!(prestat(&mut bench, 5), Err(Errno::BADF));
    let name = |bench: &mut Bench, descriptor, length| {
        bench.call(|kernel, guest| kernel.fd_prestat_dir_name(guest, descriptor, DATA, length))
    };
    assert_eq!(name(&mut bench, 4, 0), Err(Errno::NAMETOOLONG));
    assert_eq!(name(&mut bench, 4, 1), Ok(()));
    assert_eq!(bench.memory[DATA as usize], b'/');
    assert_eq!(name(&mut bench, 3, 10), Err(Errno::NOTDIR));
}
