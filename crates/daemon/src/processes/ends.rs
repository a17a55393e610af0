//! What stays of processes that have ended: a file for each, so that it is still listed, and its
//! log can be read, when the node was restarted.
//!
//! ```text
//! STATE/logs/ID.end       one line of JSON (version and an EndRecord), then the log's frames
//! ```
//!
//! A file is replaced whole or not at all. It is not synced: what a loss of power takes along is
//! the memory of a process that has ended. One that is damaged is removed and said so. One that
//! cannot be read now, or is of another release (every version begins with a line of JSON that has a
//! `version`), is left where it is.

use super::log::{KEPT_BYTES, LONGEST_FRAME};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use wire::{ArtefactId, Epoch, ImageId, ProcessId};

/// Bytes of the line before the frames.
const LONGEST_LINE: usize = 64 << 10;
/// Bytes of a file: no frame more than the log keeps, and the one that made it too long.
const MOST: usize = LONGEST_LINE + KEPT_BYTES + LONGEST_FRAME;
/// Characters kept of the reason.
const LONGEST_REASON: usize = 4 << 10;
const EXTENSION: &str = "end";
/// While it is written.
const UNFINISHED: &str = "end.new";
/// The version of the files that this release reads and writes.
const VERSION: u32 = 1;

/// What is common to the first lines of all versions.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The first line.
#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    #[serde(flatten)]
    record: &'a EndRecord,
}

/// Why a file was not read.
#[derive(Debug)]
enum Unread {
    /// It cannot be, for now.
    Inaccessible(io::Error),
    /// It is of another release.
    Version(u32),
    /// It makes no sense.
    Damaged(String),
}

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
    /// Its exit code, or one that says how it was ended. None of one that was lost.
    pub code: Option<i32>,
    /// Where there is more to say than the code.
    pub reason: Option<String>,
    /// Position after the last frame of its log.
    pub log_end: u64,
}

/// Where the record of a process is.
pub fn path(directory: &Path, process: ProcessId) -> PathBuf {
    directory.join(format!("{process}.{EXTENSION}"))
}

/// Whether a file is the record of an ended process, of whatever version.
pub fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == EXTENSION)
}

/// Keeps a record with its log's frames.
pub fn write(directory: &Path, record: &EndRecord, frames: &[u8]) -> io::Result<()> {
    let mut record = record.clone();
    if let Some(reason) = &mut record.reason {
        *reason = reason.chars().take(LONGEST_REASON).collect();
    }
    let path = path(directory, record.id);
    let beside = path.with_extension(UNFINISHED);
    let write = || {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&beside)?;
        file.write_all(&first_line(&record)?)?;
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
        if path.to_string_lossy().ends_with(&format!(".{UNFINISHED}")) {
            // A crash came before its end.
            let _ = fs::remove_file(&path);
        }
        if !is_record(&path) {
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
            Err(Unread::Inaccessible(error)) => {
                tracing::warn!(path = %path.display(), %error, "the record of an ended process cannot be read; it is left where it is");
            }
            Err(Unread::Version(version)) => {
                tracing::warn!(path = %path.display(), version, "the record of an ended process is of another release; it is left where it is");
            }
            damaged => {
                let reason = match damaged {
                    Err(Unread::Damaged(reason)) => reason,
                    _ => "it is of another process".to_owned(),
                };
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

fn first_line(record: &EndRecord) -> io::Result<Vec<u8>> {
    let version = VERSION;
    let mut line = serde_json::to_vec(&Line { version, record })?;
    line.push(b'\n');
    Ok(line)
}

fn read(path: &Path) -> Result<(EndRecord, Vec<u8>), Unread> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        let mut file = file.take(MOST as u64 + 1);
        file.read_to_end(&mut bytes)
    });
    read.map_err(Unread::Inaccessible)?;
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Result<(EndRecord, Vec<u8>), Unread> {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (line, frames) = (parts.next().unwrap_or_default(), parts.next());
    let damaged = |error: serde_json::Error| Unread::Damaged(error.to_string());
    let Versioned { version } = serde_json::from_slice(line).map_err(damaged)?;
    if version != VERSION {
        return Err(Unread::Version(version));
    }
    if bytes.len() > MOST {
        return Err(Unread::Damaged(format!("it is longer than {MOST} bytes")));
    }
    let record = serde_json::from_slice(line).map_err(damaged)?;
    let frames = frames.ok_or_else(|| Unread::Damaged("its first line does not end".to_owned()))?;
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
            code: Some(134),
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
            b"{\"version\":1}\n",
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

    /// The bytes of version 1, for ever.
    const GOLDEN: &str = concat!(
        r#"{"version":1,"id":"0000000000000001","name":"p1","#,
        r#""image":"0101010101010101010101010101010101010101010101010101010101010101","#,
        r#""artefact":"0202020202020202020202020202020202020202020202020202020202020202","#,
        r#""epoch":3,"born_ns":4,"moves":5,"freezes":6,"memory_bytes":7,"code":134,"#,
        r#""reason":"unreachable\nsecond line","log_end":9}"#,
        "\nframes",
    );

    #[test]
    fn version_1_is_written_and_read_byte_by_byte_as_ever() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &record(1), b"frames").unwrap();
        let written = fs::read(path(directory.path(), ProcessId(1))).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), GOLDEN);
        let read = decode(GOLDEN.as_bytes()).unwrap();
        assert_eq!(read, (record(1), b"frames".to_vec()));
    }

    #[test]
    fn no_bytes_break_the_reading_of_a_record() {
        let golden = GOLDEN.as_bytes();
        let check = |bytes: &[u8]| {
            if let Ok((record, frames)) = decode(bytes) {
                let again = [first_line(&record).unwrap(), frames.clone()].concat();
                assert_eq!(decode(&again).unwrap(), (record, frames));
            }
        };
        for place in 0..golden.len() {
            check(&golden[..place]);
            check(&golden[place..]);
            for byte in 0..=u8::MAX {
                let mut mutated = golden.to_vec();
                mutated[place] = byte;
                check(&mutated);
            }
        }
    }

    #[test]
    fn what_is_of_another_release_or_cannot_be_read_now_is_left_and_what_is_unfinished_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let newer = path(directory.path(), ProcessId(1));
        fs::write(&newer, b"{\"version\":2,\"more\":true}\nand more").unwrap();
        // A folder can be opened, but not read.
        let unreadable = path(directory.path(), ProcessId(2));
        fs::create_dir(&unreadable).unwrap();
        let unfinished = newer.with_extension(UNFINISHED);
        fs::write(&unfinished, b"{").unwrap();
        assert!(read_all(directory.path()).is_empty());
        assert!(newer.exists() && unreadable.exists() && !unfinished.exists());
    }

    #[test]
    fn a_record_that_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(write(&missing, &record(1), b"").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
