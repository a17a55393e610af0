//! What stays of processes that have ended: a file for each, so that it is still listed, and its
//! log can be read, when the node was restarted.
//!
//! ```text
//! STATE/logs/ID.end       one line of JSON (an EndRecord), then the log's frames
//! ```
//!
//! A file is replaced whole or not at all. It is not synced: what a loss of power takes along is
//! the memory of a process that has ended. One that makes no sense is removed and said so.

use super::log::{KEPT_BYTES, LONGEST_FRAME};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use wire::{ArtefactId, Epoch, ImageId, ProcessId};

/// Bytes of the line before the frames.
const LONGEST_LINE: usize = 64 << 10;
/// Characters kept of the reason.
const LONGEST_REASON: usize = 4 << 10;
const EXTENSION: &str = "end";

/// A process that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    /// Its id.
    pub id: ProcessId,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: ImageId,
    /// Its artefact.
    pub artefact: ArtefactId,
    /// The epoch under which it ended.
    pub epoch: Epoch,
    /// When it was first started, nanoseconds since 1970.
    pub born_ns: u64,
    /// Times it was moved.
    pub moves: u64,
    /// Times it was frozen.
    pub freezes: u64,
    /// Its linear memory at the end, in bytes.
    pub memory_bytes: u64,
    /// Its exit code, or one that says how it was ended.
    pub code: i32,
    /// Where there is more to say than the code.
    pub reason: Option<String>,
    /// Position after the last frame of its log.
    pub log_end: u64,
}

/// Where the record of a process is.
pub fn path(directory: &Path, process: ProcessId) -> PathBuf {
    directory.join(format!("{process}.{EXTENSION}"))
}

/// Keeps a record with its log's frames.
pub fn write(directory: &Path, record: &EndRecord, frames: &[u8]) -> io::Result<()> {
    let mut record = record.clone();
    if let Some(reason) = &mut record.reason {
        *reason = reason.chars().take(LONGEST_REASON).collect();
    }
    let path = path(directory, record.id);
    let beside = path.with_extension("end.new");
    let write = || {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&beside)?;
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.write_all(frames)?;
        fs::rename(&beside, &path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// All records and their frames, the oldest first.
pub fn read_all(directory: &Path) -> Vec<(EndRecord, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|kind| kind != EXTENSION) {
            continue;
        }
        let modified = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok();
        match read(&path) {
            Ok((record, frames)) if self::path(directory, record.id) == path => {
                found.push((modified, record, frames));
            }
            read => {
                let reason = read.err().map(|error| error.to_string());
                tracing::warn!(path = %path.display(), reason, "a damaged record of an ended process is removed");
                let _ = fs::remove_file(&path);
            }
        }
    }
    found.sort_by_key(|(modified, record, _)| (*modified, record.id));
    found
        .into_iter()
        .map(|(_, record, frames)| (record, frames))
        .collect()
}

fn read(path: &Path) -> io::Result<(EndRecord, Vec<u8>)> {
    // No frame more than the log keeps, and the one that made it too long.
    let most = LONGEST_LINE + KEPT_BYTES + LONGEST_FRAME;
    let mut bytes = Vec::new();
    File::open(path)?
        .take(most as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (line, frames) = (parts.next().unwrap_or_default(), parts.next());
    let record = serde_json::from_slice(line)?;
    let frames = frames.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((record, frames.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64) -> EndRecord {
        EndRecord {
            id: ProcessId(id),
            name: format!("p{id}"),
            image: ImageId([1; 32]),
            artefact: ArtefactId([2; 32]),
            epoch: Epoch(3),
            born_ns: 4,
            moves: 5,
            freezes: 6,
            memory_bytes: 7,
            code: 134,
            reason: Some("unreachable\nsecond line".to_owned()),
            log_end: 9,
        }
    }

    #[test]
    fn records_come_back_with_their_logs() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &record(1), b"frames\n\n").unwrap();
        write(directory.path(), &record(2), b"").unwrap();
        let mut found = read_all(directory.path());
        found.sort_by_key(|(record, _)| record.id);
        assert_eq!(
            found,
            [(record(1), b"frames\n\n".to_vec()), (record(2), Vec::new())]
        );
    }

    #[test]
    fn damaged_records_are_removed_and_the_others_read() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &record(1), b"").unwrap();
        let whole = fs::read(path(directory.path(), ProcessId(1))).unwrap();
        let damaged = [
            &b"{}\n"[..],
            b"",
            b"\xff\xff",
            &whole[..whole.len() - 1],
            &whole,
        ];
        for (number, bytes) in damaged.iter().enumerate() {
            fs::write(
                path(directory.path(), ProcessId(100 + number as u64)),
                bytes,
            )
            .unwrap();
        }
        let long = vec![b'x'; LONGEST_LINE + KEPT_BYTES + LONGEST_FRAME + 1];
        fs::write(path(directory.path(), ProcessId(200)), long).unwrap();
        assert_eq!(read_all(directory.path()), [(record(1), Vec::new())]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_record_that_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(write(&missing, &record(1), b"").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
