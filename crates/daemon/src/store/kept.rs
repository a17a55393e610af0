//! What processes that have left had in their files: chunks that need not be sent when they return.
//!
//! One file per process, named by its id, of nothing but chunks:
//!
//! ```text
//! (4 bytes length, little-endian | so many bytes)*
//! ```
//! No digest is written down. Those of what is read are computed when the process is offered to this
//! node again; so what was altered is not found under what it was, and is sent again, and so is what
//! lies behind a length that was altered. Nothing has to be whole, or on the disk for certain.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use wire::ProcessId;
use wire::snapshot::{CHUNK_BYTES, Chunk, MAX_LEFT_OUT};

/// Bytes that are kept in all; what has been here longest goes first.
pub const MAX_KEPT_BYTES: u64 = 2 << 30;
/// How long what a process had is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// The directory of what is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    root: PathBuf,
}

impl Kept {
    /// What is kept under `root`, which exists. What a crash has left half-written goes.
    pub fn new(root: &Path) -> Kept {
        let kept = Kept {
            root: root.to_owned(),
        };
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if process_of(&entry.path()).is_none() {
                let _ = fs::remove_file(entry.path());
            }
        }
        kept
    }

    fn path(&self, process: ProcessId) -> PathBuf {
        self.root.join(process.to_string())
    }

    /// Keeps chunks of a process in place of what was kept of it, if there are any. On failure (a full
    /// disk) nothing is kept.
    pub fn keep(&self, process: ProcessId, chunks: &[Chunk]) {
        self.forget(process);
        if chunks.is_empty() {
            return;
        }
        let path = self.path(process);
        let beside = path.with_extension("new");
        let written = write(&beside, chunks).and_then(|()| fs::rename(&beside, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&beside);
            tracing::info!(%process, %error, "the files of a process that has left are not kept");
        }
    }

    /// What is kept of a process.
    pub fn find(&self, process: ProcessId) -> Vec<Chunk> {
        let Ok(file) = File::open(self.path(process)) else {
            return Vec::new();
        };
        let mut file = BufReader::with_capacity(2 * CHUNK_BYTES, file);
        let mut chunks = Vec::new();
        while chunks.len() < MAX_LEFT_OUT
            && let Ok(Some(chunk)) = read(&mut file)
        {
            chunks.push(chunk);
        }
        chunks
    }

    /// Keeps nothing of a process any more.
    pub fn forget(&self, process: ProcessId) {
        let _ = fs::remove_file(self.path(process));
    }

    /// The processes of which something is kept.
    pub fn processes(&self) -> Vec<ProcessId> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| process_of(&entry.path()))
            .collect()
    }

    /// Removes what is older than `oldest`, and then what is oldest until there are no more than `most`
    /// bytes.
    pub fn shrink(&self, most: u64, oldest: SystemTime) {
        let mut all = Vec::new();
        for process in self.processes() {
            if let Ok(metadata) = fs::metadata(self.path(process)) {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                all.push((modified, metadata.len(), process));
            }
        }
        all.sort_unstable_by_key(|(modified, _, _)| *modified);
        let mut bytes: u64 = all.iter().map(|(_, length, _)| length).sum();
        for (modified, length, process) in all {
            if modified < oldest || bytes > most {
                bytes -= length;
                self.forget(process);
            }
        }
    }
}

fn process_of(path: &Path) -> Option<ProcessId> {
    path.file_name()?.to_str()?.parse().ok()
}

fn write(path: &Path, chunks: &[Chunk]) -> io::Result<()> {
    let mut options = File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = BufWriter::new(options.open(path)?);
    for chunk in chunks {
        file.write_all(&(chunk.len() as u32).to_le_bytes())?;
        file.write_all(chunk)?;
    }
    file.flush()
}

/// The next chunk; none at the end, and behind what is no chunk.
fn read(file: &mut impl Read) -> io::Result<Option<Chunk>> {
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if !(1..=CHUNK_BYTES).contains(&length) {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(Some(Arc::new(bytes.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(count: u8) -> Vec<Chunk> {
        let chunk = |fill| Arc::new(vec![fill; 1000 + usize::from(fill)].into());
        (0..count).map(chunk).collect()
    }

    fn kept() -> (tempfile::TempDir, Kept) {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::new(directory.path());
        (directory, kept)
    }

    #[test]
    fn what_was_kept_last_is_found_until_it_is_forgotten() {
        let (_directory, kept) = kept();
        let process = ProcessId(7);
        assert!(kept.find(process).is_empty());
        kept.keep(process, &chunks(9));
        kept.keep(process, &chunks(5));
        kept.keep(ProcessId(8), &[]);
        assert_eq!(kept.find(process), chunks(5));
        assert_eq!(kept.processes(), [process]);
        kept.forget(process);
        assert!(kept.find(process).is_empty());
        assert!(kept.processes().is_empty());
    }

    #[test]
    fn what_was_altered_or_cut_is_not_taken_for_what_it_was() {
        let (_directory, kept) = kept();
        let process = ProcessId(7);
        kept.keep(process, &chunks(5));
        let path = kept.path(process);
        let whole = fs::read(&path).unwrap();
        // All of the first length and the second, and some of the bytes.
        let lengths = (0..4).chain(1004..1008);
        for at in lengths.chain((4..whole.len()).step_by(251)) {
            let mut altered = whole.clone();
            altered[at] ^= 0x40;
            fs::write(&path, altered).unwrap();
            let found = kept.find(process);
            let known = chunks(5);
            let good = found.iter().filter(|chunk| known.contains(chunk));
            assert!(good.count() < 5, "byte {at}");
            assert!(found.len() <= 5);
            fs::write(&path, &whole[..at]).unwrap();
            assert!(kept.find(process).len() < 5);
        }
    }

    #[test]
    fn what_is_oldest_goes_and_what_a_crash_has_left() {
        let (directory, kept) = kept();
        let hours = |count| Duration::from_secs(3600 * count);
        let now = SystemTime::now();
        for age in 1..=5u64 {
            kept.keep(ProcessId(age), &chunks(1));
            let file = File::options().write(true).open(kept.path(ProcessId(age)));
            file.unwrap().set_modified(now - hours(age)).unwrap();
        }
        let left = || {
            let mut left: Vec<u64> = kept.processes().iter().map(|process| process.0).collect();
            left.sort_unstable();
            left
        };
        kept.shrink(u64::MAX, now - hours(4) - hours(1) / 2);
        assert_eq!(left(), [1, 2, 3, 4]);
        kept.shrink(2500, now - hours(9));
        assert_eq!(left(), [1, 2]);

        fs::write(directory.path().join("0000000000000009.new"), "half").unwrap();
        Kept::new(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
