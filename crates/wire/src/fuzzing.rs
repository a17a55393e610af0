//! Bodies of the fuzz targets: each takes any bytes, and panics only where there is a fault.
//!
//! `cargo fuzz` runs them with a nightly toolchain; the tests run them over the corpus in
//! `fuzz/corpus/` and over mutations of it.

use crate::api::run_body;
use crate::checkpoint::{self, Checkpoint};
use crate::control::Control;
use crate::frame::StreamFrame;
use crate::link::{
    self, BulkHeader, FrameReader, Hello, Join, JoinReply, LinkError, Luggage, MAX_CONTROL,
    MAX_STREAM,
};
use crate::pages::{Batch, PartWriter};
use crate::snapshot::{HEADER_BYTES, PAGE_BYTES, PageKind, Snapshot, fix_header};
use crate::ticket::Ticket;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A snapshot as given, then with its length and checksum made right.
pub fn snapshot(data: &[u8]) {
    check_snapshot(data);
    let mut data = data.to_vec();
    fix_header(&mut data);
    check_snapshot(&data);
}

fn check_snapshot(data: &[u8]) {
    match Snapshot::decode(data) {
        Ok(snapshot) => {
            for memory in &snapshot.memories {
                memory.check().expect("a decoded memory holds together");
            }
            let again = Snapshot::decode(&snapshot.encode());
            assert_eq!(again.as_ref(), Ok(&snapshot));
            // The way over links gives the same.
            let mut bytes = data.to_vec();
            if let Some(checksum) = bytes.get_mut(HEADER_BYTES - 32..HEADER_BYTES) {
                checksum.fill(0);
            }
            assert_eq!(Snapshot::decode_from_link(bytes).as_ref(), Ok(&snapshot));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Bytes of a link: the first chooses the kind of message and how they are cut.
pub fn link_frames(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let step = usize::from(choice >> 3) * 7 + 1;
    match choice & 7 {
        0 => check_frames::<StreamFrame>(data, step, MAX_STREAM),
        1 => check_frames::<Control>(data, step, MAX_CONTROL),
        2 => check_frames::<Join>(data, step, MAX_CONTROL),
        3 => check_frames::<JoinReply>(data, step, MAX_CONTROL),
        4 => check_frames::<BulkHeader>(data, step, MAX_CONTROL),
        6 => check_frames::<Luggage>(data, step, MAX_CONTROL),
        _ => {
            if let Ok(hello) = Hello::decode(data) {
                let _ = hello.agree();
                let mut bytes = Vec::new();
                if hello.write_frame(&mut bytes).is_ok() {
                    let again = bytes.get(4..).map(Hello::decode);
                    assert_eq!(again, Some(Ok(hello)));
                }
            }
        }
    }
}

/// However the bytes are cut, the same frames come out, and each is written as it can be read.
fn check_frames<T: DeserializeOwned + Serialize + PartialEq + Debug>(
    data: &[u8],
    step: usize,
    limit: usize,
) {
    let in_steps = read_all::<T>(data, step, limit);
    let at_once = read_all::<T>(data, limit, limit);
    assert_eq!(in_steps, at_once);
    for message in &at_once.0 {
        let mut bytes = Vec::new();
        link::write_frame(message, usize::MAX, &mut bytes).expect("what was read can be written");
        let again = bytes.get(4..).map(link::decode::<T>);
        assert_eq!(again.as_ref().map(Result::as_ref), Some(Ok(message)));
    }
}

fn read_all<T: DeserializeOwned>(
    data: &[u8],
    step: usize,
    limit: usize,
) -> (Vec<T>, Option<LinkError>) {
    let mut reader = FrameReader::new(limit);
    let mut messages = Vec::new();
    for chunk in data.chunks(step) {
        if let Err(error) = reader.push(chunk) {
            return (messages, Some(error));
        }
        loop {
            match reader.next_frame() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// A checkpoint file as given, then with its checksum made right.
pub fn checkpoint(data: &[u8]) {
    check_checkpoint(data);
    let mut data = data.to_vec();
    checkpoint::fix_checksum(&mut data);
    check_checkpoint(&data);
}

fn check_checkpoint(data: &[u8]) {
    match Checkpoint::decode(data) {
        Ok(checkpoint) => {
            let again = checkpoint.encode().expect("what was read can be written");
            assert_eq!(Checkpoint::decode(&again), Ok(checkpoint));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Batches of pages.
pub fn pages(mut data: &[u8]) {
    let mut writer = PartWriter::new();
    while !data.is_empty() {
        let before = data;
        let batch = match Batch::take(&mut data) {
            Ok(batch) => batch,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        // Written again it is the same.
        let count = batch.pages() as usize;
        let room = writer.pages(count);
        let mut kinds = Vec::new();
        for stretch in batch.stretches() {
            assert_eq!(stretch.first, batch.first + kinds.len() as u64);
            let at = kinds.len() * PAGE_BYTES;
            let given = room.get_mut(at..at + stretch.given.len());
            let given = given.expect("there is room for any batch in an empty part");
            given.copy_from_slice(stretch.given);
            kinds.extend((0..stretch.pages).map(|_| stretch.kind));
        }
        assert_eq!(kinds.len(), count);
        let mut kinds = kinds.into_iter();
        let kind_of = |_, _: &[u8]| kinds.next().unwrap_or(PageKind::Zero);
        writer.append((batch.memory, batch.first), count, None, kind_of);
        assert!(before.starts_with(writer.part()));
        assert_eq!(before.len() - data.len(), writer.part().len());
        writer.clear();
    }
}

/// The body of a request to run.
pub fn run_body(data: &[u8]) {
    match run_body::decode(data) {
        Ok(body) => {
            // Its specification may be longer than one may be when it is written another way.
            if let Ok(again) = run_body::encode(&body.spec, &body.files, body.module) {
                assert_eq!(run_body::decode(&again), Ok(body));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A ticket's text.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(ticket) = text.parse::<Ticket>() {
        let written = ticket.to_string();
        assert!(written.eq_ignore_ascii_case(text.trim()));
        assert_eq!(written.parse(), Ok(ticket));
    }
}
