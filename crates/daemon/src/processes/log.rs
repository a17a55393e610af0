//! What a process has written to standard output and error.
//!
//! The newest part is kept in memory, as the frames in which the API hands it out:
//! `stream u8 (1 or 2), length u32 little-endian, bytes`, at most one line per frame. A position
//! counts the bytes of all frames since the process was born; it goes along when the process
//! moves, so that a reader who follows continues at the new node where it stopped. The same bytes
//! go, unframed, into a file for people, which goes along too. Where a reader asks for more than is
//! kept in memory, a mark says how much is missing.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Bytes of frames kept in memory, and taken along in a move.
pub const KEPT_BYTES: usize = 512 << 10;
/// Length of a log file, after which it is moved aside (one older file is kept).
const FILE_BYTES: u64 = 16 << 20;
/// Bytes of the text in the files that go along in a move: the newest.
pub const TEXT_BYTES: u64 = 16 << 20;
/// Bytes before the content of a frame.
pub const HEADER: usize = 5;
/// Bytes of the content of a frame, at most.
pub const LONGEST_FRAME: usize = 16 << 10;
/// Log files that outlive a restart of the node.
const KEPT_FILES: usize = 100;

/// One process's log.
#[derive(Debug)]
pub struct Log {
    kept: Mutex<Kept>,
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// Position of each kept frame, and whether it ends a line.
    frames: VecDeque<(u64, bool)>,
    /// Position after the last frame.
    end: u64,
    file: Option<LogFile>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    /// Its length when it was opened: of an earlier life of the process here.
    found: u64,
    /// The file that was moved aside. Both stay readable here when they are removed.
    older: Option<File>,
}

impl Log {
    /// An empty log that begins at a position, with a file if a path is given.
    pub fn new(begin: u64, path: Option<&Path>) -> Arc<Log> {
        let file = path.and_then(|path| match LogFile::open(path) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no log file");
                None
            }
        });
        Arc::new(Log {
            kept: Mutex::new(Kept {
                end: begin,
                file,
                ..Kept::default()
            }),
            end: watch::Sender::new(begin),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends what was written to standard output (1) or error (2).
    pub fn append(&self, stream: u8, bytes: &[u8]) {
        let mut kept = self.kept();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in line.chunks(LONGEST_FRAME) {
                kept.push(stream, part);
            }
        }
        kept.write_file(bytes);
        let end = kept.end;
        drop(kept);
        self.end.send_replace(end);
    }

    /// Appends whole lines of the node's own: they begin where a line begins, whatever the program
    /// wrote last, and end with the end of one.
    pub fn append_lines(&self, stream: u8, text: &str) {
        let within_a_line = {
            let kept = self.kept();
            kept.frames.back().is_some_and(|(_, ends_line)| !ends_line)
        };
        let begin = if within_a_line { "\n" } else { "" };
        let end = if text.ends_with('\n') { "" } else { "\n" };
        self.append(stream, format!("{begin}{text}{end}").as_bytes());
    }

    /// What an ended process has left: frames that end at a position. Nothing more is written.
    pub fn ended(frames: &[u8], end: u64) -> Arc<Log> {
        let log = Log::new(end, None);
        log.import(frames);
        log
    }

    /// What is left of a process whose end nobody saw: the newest text of its file, as if all of it
    /// was written to standard output. Reads from the disk.
    pub fn left_in(path: &Path) -> Arc<Log> {
        let log = Log::new(0, None);
        match newest_text(path) {
            Ok(text) => log.append(1, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the log of a lost process cannot be read");
            }
        }
        log
    }

    /// Puts frames that were written elsewhere in front; `frames` end where this log began.
    /// What is malformed ends the import.
    pub fn import(&self, frames: &[u8]) {
        let mut older = Kept::default();
        let mut rest = frames;
        while let Some((stream, part, after)) = next_frame(rest) {
            older.push(stream, part);
            rest = after;
        }
        let mut kept = self.kept();
        let begin = kept.begin().saturating_sub(older.end);
        if kept.begin() < older.end {
            return;
        }
        for (position, _) in &mut older.frames {
            *position += begin;
        }
        older.bytes.append(&mut kept.bytes);
        older.frames.append(&mut kept.frames);
        kept.bytes = older.bytes;
        kept.frames = older.frames;
        kept.trim();
    }

    /// The newest text of the files, for the node that the process moves to. Reads from the disk.
    pub fn text(&self) -> std::io::Result<Vec<u8>> {
        let mut files = Vec::new();
        if let Some(file) = &self.kept().file {
            let older = file.older.as_ref();
            for part in older.into_iter().chain([&file.file]) {
                files.push(part.try_clone()?);
            }
        }
        // What is written meanwhile is not part of it.
        let lengths = files.iter().map(|file| Ok(file.metadata()?.len()));
        let lengths = lengths.collect::<std::io::Result<Vec<u64>>>()?;
        let mut skip = lengths.iter().sum::<u64>().saturating_sub(TEXT_BYTES);
        let mut text = Vec::new();
        for (file, length) in files.iter().zip(lengths) {
            let skipped = skip.min(length);
            skip -= skipped;
            let begin = text.len();
            text.resize(begin + usize::try_from(length - skipped).unwrap_or(0), 0);
            if let Some(rest) = text.get_mut(begin..) {
                file.read_exact_at(rest, skipped)?;
            }
        }
        Ok(text)
    }

    /// Text that was written at the node where the process was before, into the file that is older
    /// than this log's own.
    pub fn lay_down(&self, text: &[u8]) {
        let path = match &self.kept().file {
            // So much was written here already that what came before is too old.
            Some(file) if file.older.is_none() => aside(&file.path),
            _ => return,
        };
        let laid = open(&path).and_then(|mut older| {
            older.set_len(0)?;
            older.write_all(text)?;
            Ok(older)
        });
        match (laid, &mut self.kept().file) {
            (Ok(older), Some(file)) => file.older = Some(older),
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::warn!(path = %path.display(), %error, "the older part of a log is lost");
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    /// Says in the file that what was written before the process came here is not there.
    pub fn mark_missing(&self, what: &str) {
        self.kept()
            .write_file(format!("limosa: {what}\n").as_bytes());
    }

    /// Removes the files. What is on its way elsewhere can still be read.
    pub fn remove_files(&self) {
        if let Some(file) = &self.kept().file {
            let _ = std::fs::remove_file(&file.path);
            let _ = std::fs::remove_file(aside(&file.path));
        }
    }

    /// Takes back the files of a process that came here and never ran: what an earlier life of it
    /// has left stays.
    pub fn withdraw_files(&self) {
        if let Some(file) = &self.kept().file {
            if file.older.is_some() {
                let _ = std::fs::remove_file(aside(&file.path));
            }
            let taken_back = match file.found {
                0 => std::fs::remove_file(&file.path),
                found => file.file.set_len(found),
            };
            if let Err(error) = taken_back {
                tracing::warn!(path = %file.path.display(), %error, "a log file is left over");
            }
        }
    }

    /// All kept frames and the position after them.
    pub fn export(&self) -> (Vec<u8>, u64) {
        let mut kept = self.kept();
        (kept.bytes.make_contiguous().to_vec(), kept.end)
    }

    /// Memory that the kept frames take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let kept = self.kept();
        kept.bytes.len() + kept.frames.len() * size_of::<(u64, bool)>()
    }

    /// Position after the last frame; changes wake who waits for it.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// Whole frames from a position on (or from the oldest kept): at most `most` bytes of them, but
    /// one at least; and the position of the first. A reader who asks on from their end is never
    /// within a frame, whatever is no longer kept when it does.
    pub fn read(&self, from: u64, most: usize) -> (Vec<u8>, u64) {
        self.kept().read(from, most)
    }

    /// Where the frame begins in which a position lies, or the oldest kept, or the end.
    pub fn frame_at(&self, position: u64) -> u64 {
        self.kept().frame_at(position)
    }

    /// The position from which there are at most `lines` lines.
    pub fn tail(&self, lines: u64) -> u64 {
        self.kept().tail(lines)
    }

    /// The last lines, and the position of the first.
    pub fn read_tail(&self, lines: u64) -> (Vec<u8>, u64) {
        let kept = self.kept();
        kept.read(kept.tail(lines), usize::MAX)
    }

    /// The oldest kept position.
    pub fn begin(&self) -> u64 {
        self.kept().begin()
    }
}

/// Splits the first frame off.
pub fn next_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let [stream, a, b, c, d] = *header;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    if !matches!(stream, 1 | 2) || length > LONGEST_FRAME {
        return None;
    }
    let (part, after) = rest.split_at_checked(length)?;
    Some((stream, part, after))
}

/// The length of the whole frames with which `bytes` begin. None if what follows them cannot become
/// a frame.
pub fn whole_frames(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    while let Some((_, _, after)) = next_frame(rest) {
        rest = after;
    }
    let stream = rest.first().is_none_or(|stream| matches!(stream, 1 | 2));
    (stream && rest.len() < HEADER + LONGEST_FRAME).then_some(bytes.len() - rest.len())
}

impl Kept {
    fn begin(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    fn read(&self, from: u64, most: usize) -> (Vec<u8>, u64) {
        let begin = self.frame_at(from);
        let end = self.frames_until(begin, most);
        let skip = usize::try_from(begin - self.begin()).unwrap_or(usize::MAX);
        let length = usize::try_from(end - begin).unwrap_or(usize::MAX);
        let bytes = self.bytes.iter().skip(skip).take(length).copied();
        (bytes.collect(), begin)
    }

    fn tail(&self, lines: u64) -> u64 {
        let mut position = self.end;
        let mut seen = 0;
        for (index, (start, ends_line)) in self.frames.iter().rev().enumerate() {
            // A last line without its end counts, too.
            seen += u64::from(*ends_line || index == 0);
            if seen > lines {
                break;
            }
            position = *start;
        }
        position
    }

    fn frame_at(&self, position: u64) -> u64 {
        let position = position.clamp(self.begin(), self.end);
        if position == self.end {
            return position;
        }
        let after = self.frames.partition_point(|frame| frame.0 <= position);
        let frame = self.frames.get(after.saturating_sub(1));
        frame.map_or(self.end, |frame| frame.0)
    }

    /// Where the frames from `begin` on end, of which there are at most `most` bytes, or one frame.
    fn frames_until(&self, begin: u64, most: usize) -> u64 {
        let last = begin.saturating_add(most as u64);
        if self.end <= last {
            return self.end;
        }
        let after = self.frames.partition_point(|frame| frame.0 <= last);
        let fits = self.frames.get(after.saturating_sub(1));
        match fits {
            Some(frame) if frame.0 > begin => frame.0,
            _ => self.frames.get(after).map_or(self.end, |frame| frame.0),
        }
    }

    fn push(&mut self, stream: u8, part: &[u8]) {
        self.frames
            .push_back((self.end, part.last() == Some(&b'\n')));
        self.bytes.push_back(stream);
        self.bytes.extend((part.len() as u32).to_le_bytes());
        self.bytes.extend(part);
        self.end += (HEADER + part.len()) as u64;
        self.trim();
    }

    fn trim(&mut self) {
        while self.bytes.len() > KEPT_BYTES {
            self.frames.pop_front();
            let begin = self.frames.front().map_or(self.end, |frame| frame.0);
            let drop = usize::try_from(begin - self.begin()).unwrap_or(usize::MAX);
            self.bytes.drain(..drop.min(self.bytes.len()));
        }
    }

    fn write_file(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write(bytes) {
            // The log in memory goes on; the process must not suffer from a full disk here.
            tracing::warn!(path = %file.path.display(), %error, "the log file is given up");
            self.file = None;
        }
    }
}

/// The last whole lines of a file, as many as are kept in memory.
fn newest_text(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(KEPT_BYTES as u64);
    let mut text = vec![0; usize::try_from(length - skipped).unwrap_or(KEPT_BYTES)];
    file.read_exact_at(&mut text, skipped)?;
    if skipped > 0 {
        let line = text.iter().position(|byte| *byte == b'\n');
        text.drain(..line.map_or(0, |end| end + 1));
    }
    Ok(text)
}

/// Where a log file goes when it is long.
pub fn aside(path: &Path) -> PathBuf {
    let mut older = path.to_owned().into_os_string();
    older.push(".1");
    older.into()
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true).mode(0o600);
    options.open(path)
}

impl LogFile {
    fn open(path: &Path) -> std::io::Result<LogFile> {
        let file = open(path)?;
        let found = file.metadata()?.len();
        Ok(LogFile {
            length: found,
            found,
            path: path.to_owned(),
            file,
            older: None,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.length > FILE_BYTES {
            std::fs::rename(&self.path, aside(&self.path))?;
            let older = std::mem::replace(self, LogFile::open(&self.path)?);
            self.older = Some(older.file);
        }
        self.length += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// A frame of the node's own that stands for `missing` bytes of frames that are not kept any more.
pub fn gap(missing: u64) -> Vec<u8> {
    let text = format!(
        "limosa: about {missing} bytes of the log are missing here; what is left of them is in the \
         log file, under logs/ in the state directory of the process's node\n"
    );
    let mut frame = vec![2];
    frame.extend((text.len() as u32).to_le_bytes());
    frame.extend(text.bytes());
    frame
}

/// Removes log files that belong to no process: all but the newest, for people who look for what
/// happened before a node fell. `listed` says which belong to one.
pub fn prune(directory: &Path, listed: impl Fn(&Path) -> bool) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let aged = |entry: std::fs::DirEntry| {
        let modified = entry.metadata().ok()?.modified().ok()?;
        Some((modified, entry.path()))
    };
    let mut files: Vec<_> = entries.flatten().filter_map(aged).collect();
    files.retain(|(_, path)| !listed(path));
    files.sort_unstable();
    let many = files.len().saturating_sub(KEPT_FILES);
    for (_, path) in files.drain(..many) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frames: &[u8]) -> String {
        let (mut rest, mut text) = (frames, String::new());
        while let Some((stream, part, after)) = next_frame(rest) {
            text += &format!("{stream}:{}", String::from_utf8_lossy(part));
            rest = after;
        }
        assert!(rest.is_empty());
        text
    }

    #[test]
    fn the_tail_counts_lines_of_both_streams() {
        let log = Log::new(0, None);
        log.append(1, b"one\ntwo\n");
        log.append(2, b"oops\n");
        log.append(1, b"thr");
        log.append(1, b"ee");
        let tail = |lines| text(&log.read(log.tail(lines), usize::MAX).0);
        assert_eq!(tail(1), "1:thr1:ee");
        assert_eq!(tail(2), "2:oops\n1:thr1:ee");
        assert_eq!(tail(100), "1:one\n1:two\n2:oops\n1:thr1:ee");
        assert_eq!(tail(0), "");
    }

    #[test]
    fn a_reader_gets_whole_frames_whatever_is_no_longer_kept() {
        let log = Log::new(7, None);
        for number in 0..100 {
            log.append(1, format!("line {number}\n").as_bytes());
        }
        // Step by step, with steps that end within frames, or are shorter than one.
        for most in [0, 1, 13, 40, 1000] {
            let (mut position, mut all) = (0, String::new());
            loop {
                let (bytes, at) = log.read(position, most);
                if bytes.is_empty() {
                    break;
                }
                assert!(bytes.len() <= most.max(13), "{most}");
                all += &text(&bytes);
                position = at + bytes.len() as u64;
            }
            assert_eq!(all.lines().count(), 100, "{most}");
            assert_eq!(position, *log.follow().borrow());
        }
        // From within a frame: from its beginning.
        let (_, second) = (log.read(7, 0), 7 + HEADER as u64 + 7);
        for from in second..second + 12 {
            let (bytes, at) = log.read(from, 1);
            assert_eq!((text(&bytes).as_str(), at), ("1:line 1\n", second));
            assert_eq!(log.frame_at(from), second);
        }
        // What is read next is not kept any more.
        let (bytes, at) = log.read(7, 20);
        log.append(
            2,
            &[b"y".repeat(LONGEST_FRAME - 1), b"\n".to_vec()]
                .concat()
                .repeat(40),
        );
        let (next, gone_on) = log.read(at + bytes.len() as u64, 1);
        assert!(gone_on > at + bytes.len() as u64);
        assert_eq!(text(&next).len(), LONGEST_FRAME + 2);
    }

    #[test]
    fn the_last_lines_are_so_many_whatever_is_written_meanwhile() {
        let log = Log::new(0, None);
        let writing = {
            let log = log.clone();
            std::thread::spawn(move || {
                for _ in 0..400 {
                    log.append(1, &b"a line that is pushed out soon\n".repeat(500));
                }
            })
        };
        while !writing.is_finished() {
            let (frames, _) = log.read_tail(2);
            assert!(text(&frames).lines().count() <= 2);
        }
        writing.join().unwrap();
        assert_eq!(text(&log.read_tail(2).0).lines().count(), 2);
    }

    #[test]
    fn whole_frames_are_told_from_the_rest_and_from_what_is_none() {
        let log = Log::new(0, None);
        log.append(1, b"one\ntwo\n");
        let (bytes, _) = log.export();
        for cut in 0..bytes.len() {
            let whole = if cut < 9 { 0 } else { 9 };
            assert_eq!(whole_frames(&bytes[..cut]), Some(whole), "{cut}");
        }
        assert_eq!(whole_frames(&bytes), Some(18));
        assert_eq!(whole_frames(&[3]), None);
        let endless = [&[1, 255, 255, 0, 0][..], &vec![0; LONGEST_FRAME]].concat();
        assert_eq!(whole_frames(&endless), None);
    }

    #[test]
    fn old_lines_go_when_the_log_is_full_and_positions_stay() {
        let log = Log::new(0, None);
        let line = [b'x'; 99].as_slice();
        for _ in 0..KEPT_BYTES / 50 {
            log.append(1, &[line, b"\n"].concat());
        }
        let (bytes, from) = log.read(0, usize::MAX);
        assert!(bytes.len() <= KEPT_BYTES && bytes.len() > KEPT_BYTES / 2);
        assert_eq!(from, log.begin());
        assert_eq!(from + bytes.len() as u64, *log.follow().borrow());
        assert_eq!(text(&bytes).lines().count(), bytes.len() / 105);
    }

    #[test]
    fn a_moved_log_continues_at_its_position() {
        let old = Log::new(0, None);
        old.append(1, b"before\n");
        let (frames, end) = old.export();
        let new = Log::new(end, None);
        new.append(1, b"after\n");
        new.import(&frames);
        assert_eq!(text(&new.read(0, usize::MAX).0), "1:before\n1:after\n");
        assert_eq!(text(&new.read(end, usize::MAX).0), "1:after\n");
        assert_eq!(
            text(&new.read(new.tail(2), 1 << 20).0),
            "1:before\n1:after\n"
        );
    }

    #[test]
    fn a_malformed_import_changes_nothing_that_was_written_here() {
        let log = Log::new(1000, None);
        log.append(2, b"here\n");
        log.import(&[1, 255, 255, 255, 255, 0]);
        log.import(&[9, 1, 0, 0, 0, 0]);
        assert_eq!(text(&log.read(0, usize::MAX).0), "2:here\n");
    }

    #[test]
    fn lines_of_the_node_s_own_stand_apart_from_what_the_program_wrote() {
        let log = Log::new(0, None);
        log.append_lines(2, "first");
        log.append(1, b"no end");
        log.append_lines(2, "limosa: trapped\nat f");
        log.append_lines(2, "more\n");
        let expected = "2:first\n1:no end2:\n2:limosa: trapped\n2:at f\n2:more\n";
        assert_eq!(text(&log.read(0, usize::MAX).0), expected);
    }

    #[test]
    fn what_a_lost_process_has_left_is_read_from_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.log");
        assert_eq!(Log::left_in(&path).export(), (Vec::new(), 0));
        std::fs::write(&path, b"one\ntw").unwrap();
        assert_eq!(text(&Log::left_in(&path).export().0), "1:one\n1:tw");
        // Of a long one the newest lines.
        let line = [&[b'x'; 999][..], b"\n"].concat();
        std::fs::write(
            &path,
            [&line.repeat(KEPT_BYTES / 500)[..], b"last\n"].concat(),
        )
        .unwrap();
        let left = text(&Log::left_in(&path).export().0);
        assert!(left.len() > KEPT_BYTES * 9 / 10 && left.len() <= KEPT_BYTES);
        assert!(
            left.lines()
                .all(|line| line.len() == 1001 || line == "1:last")
        );
        assert!(left.ends_with("1:last\n"));
    }

    #[test]
    fn the_file_has_the_plain_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.log");
        let log = Log::new(0, Some(&path));
        log.append(1, b"out\n");
        log.append(2, b"err\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"out\nerr\n");
    }

    #[test]
    fn the_files_go_along_and_none_stays_behind() {
        let directory = tempfile::tempdir().unwrap();
        let (here, there) = (
            directory.path().join("a.log"),
            directory.path().join("b.log"),
        );
        let old = Log::new(0, Some(&here));
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // Enough for an older file beside.
        for _ in 0..FILE_BYTES / 1000 + 10 {
            old.append(1, &line);
        }
        assert!(aside(&here).exists());
        old.remove_files();
        assert!(!here.exists() && !aside(&here).exists());
        let text = old.text().unwrap();
        assert_eq!(text.len() as u64, TEXT_BYTES);
        let new = Log::new(1 << 30, Some(&there));
        new.append(1, b"after\n");
        new.lay_down(&text);
        assert_eq!(std::fs::read(&there).unwrap(), b"after\n");
        assert!(std::fs::read(aside(&there)).unwrap() == text);
        let both = new.text().unwrap();
        assert_eq!(both.len() as u64, TEXT_BYTES);
        assert!(both.ends_with(b"x\nafter\n"));
    }

    #[test]
    fn a_process_that_never_ran_here_leaves_what_its_earlier_life_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.log");
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let standing_by = || {
            let log = Log::new(100, Some(&path));
            log.mark_missing("something");
            log.lay_down(b"from elsewhere\n");
            log.withdraw_files();
        };
        standing_by();
        assert_eq!(files(), 0);
        Log::new(0, Some(&path)).append(1, b"earlier\n");
        standing_by();
        assert_eq!(std::fs::read(&path).unwrap(), b"earlier\n");
        assert_eq!(files(), 1);
    }

    #[test]
    fn files_that_belong_to_no_process_go_but_for_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..KEPT_FILES + 20 {
            std::fs::write(directory.path().join(format!("{number}.log")), b"").unwrap();
        }
        prune(directory.path(), |path| path.ends_with("7.log"));
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, KEPT_FILES + 1);
        assert!(directory.path().join("7.log").exists());
    }
}
