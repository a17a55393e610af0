//! The host calls over files on volumes, where the system's own calls are not what WASI asks for.

use super::super::Kernel;
use super::super::abi::{Call, Errno, FILESTAT_BYTES, filetype};
use super::super::files::How;
use super::super::guest::Record;
use super::beneath::{self, errno};
use super::{access, kind, volume_of};
use rustix::fs::{FallocateFlags, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use std::ops::Range;
use wire::snapshot::Target;

/// The device number of the first volume; the others follow.
const VOLUME_DEVICE: u64 = 16;
const NANOSECONDS: u64 = 1_000_000_000;

impl Kernel {
    /// Opens a file or directory from the directory `base` of a volume, as descriptor `number`.
    pub(in super::super) fn open_on_volume(
        &mut self,
        base: u32,
        number: u32,
        path: &[u8],
        how: How,
    ) -> Call<Target> {
        let volume = volume_of(&self.descriptor(base)?.target).ok_or(Errno::BADF)?;
        let mut flags = access(how.rights_base);
        flags.set(OFlags::CREATE, how.create);
        flags.set(OFlags::EXCL, how.exclusive);
        flags.set(OFlags::DIRECTORY, how.directory);
        flags.set(OFlags::TRUNC, how.truncate);
        flags.set(OFlags::NOFOLLOW, !how.follow);
        let file = beneath::open(self.volumes.file(base)?, path, flags)?;
        let stat = rustix::fs::fstat(&file).map_err(errno)?;
        // What it is called when it is written down is asked then.
        let path = path.to_vec();
        let target = match kind(&stat) {
            filetype::REGULAR_FILE => Target::VolumeFile {
                volume,
                path,
                position: 0,
            },
            filetype::DIRECTORY => Target::VolumeDirectory {
                volume,
                path,
                preopen: None,
            },
            // Pipes, devices and sockets of the node are none of the process's.
            _ => return Err(Errno::NOTSUP),
        };
        self.volumes.insert(number, file);
        Ok(target)
    }

    /// What is told of a file that is on the volume of `descriptor`.
    pub(in super::super) fn filestat_on_volume(
        &self,
        descriptor: u32,
        stat: &Stat,
    ) -> Call<Record<FILESTAT_BYTES>> {
        let volume = volume_of(&self.descriptor(descriptor)?.target).ok_or(Errno::BADF)?;
        let time = |seconds: i64, nanoseconds| {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            seconds
                .saturating_mul(NANOSECONDS)
                .saturating_add(nanoseconds)
        };
        #[allow(clippy::unnecessary_cast, reason = "32 bits on some architectures")]
        let links = stat.st_nlink as u64;
        Ok(Record::new()
            .put(0, &(VOLUME_DEVICE + u64::from(volume)).to_le_bytes())
            .put(8, &stat.st_ino.to_le_bytes())
            .put(16, &[kind(stat)])
            .put(24, &links.to_le_bytes())
            .put(32, &u64::try_from(stat.st_size).unwrap_or(0).to_le_bytes())
            .put(40, &time(stat.st_atime, stat.st_atime_nsec).to_le_bytes())
            .put(48, &time(stat.st_mtime, stat.st_mtime_nsec).to_le_bytes())
            .put(56, &time(stat.st_ctime, stat.st_ctime_nsec).to_le_bytes()))
    }

    /// Takes room for a piece of a file; on failure the file is as long as it was before.
    pub(in super::super) fn store_on_volume(
        &self,
        descriptor: u32,
        size: u64,
        piece: Range<u64>,
    ) -> Call {
        let file = self.volumes.file(descriptor)?;
        let (start, length) = (piece.start, piece.end - piece.start);
        let taken = rustix::fs::fallocate(file, FallocateFlags::empty(), start, length);
        if taken.is_err() && self.volumes.size(descriptor)? > size {
            self.volumes.resize(descriptor, size)?;
        }
        taken.map_err(errno)
    }
}

/// Times to be set, as the system takes them.
pub(in super::super) fn timestamps(accessed: Option<u64>, modified: Option<u64>) -> Timestamps {
    let time = |time: Option<u64>| match time {
        Some(time) => Timespec {
            tv_sec: (time / NANOSECONDS).cast_signed(),
            tv_nsec: (time % NANOSECONDS).cast_signed(),
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    };
    Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    }
}
