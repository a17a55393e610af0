//! Snapshots as bytes.
//!
//! A header that says what this is, how long it is and how to know that it is whole; then sections,
//! each decoded on its own. All numbers are little-endian.
//!
//! ```text
//! header, 56 bytes
//!   offset  size
//!        0     8  magic "LIMOSA\r\n" (the line end shows a transfer that translated line ends)
//!        8     2  format version
//!       10     2  zero
//!       12     4  number of sections
//!       16     8  length of everything after the header, in bytes
//!       24    32  BLAKE3 over bytes 0..24 and everything after the header; on an authenticated
//!                 link, and only there, zeros
//!
//! section, 12 bytes and its content; in ascending order of kind, each kind once
//!        0     2  kind; from 0x8000 on: may be skipped by a reader that does not know it
//!        2     2  version of the content
//!        4     8  length of the content, in bytes
//!       12     …  content
//!
//! kind 1, identity, version 1, 65 bytes
//!        0    32  image
//!       32    32  artefact
//!       64     1  phase: 0 born, 1 start, 2 main
//!
//! kind 2, frames, version 1: the frames as the pass defines them, innermost first
//!
//! kind 3, globals, version 1
//!        0     4  number of globals, then for each
//!              1  type: 0 i32, 1 i64, 2 f32, 3 f64, 4 v128, 5 function reference
//!         4/8/16  value; floats as bits; a reference, of 4 bytes, as its position in the artefact's
//!                 list of functions, 0xffffffff if null
//!
//! kind 4, memories, version 1
//!        0     4  number of memories, then for each a table entry
//!              8  size in WebAssembly pages of 64 KiB
//!              4  number of runs, then for each run
//!                   1  kind: 0 zero, 1 equal to the image's, 2 given
//!                   8  pages of 4 KiB; not 0, and no two runs of one kind in a row
//!              …  after all table entries: the given pages of all memories, in order
//!
//! kind 5, kernel, version 2: `Kernel` in postcard's encoding; version 1, with another `FileTree`, is
//! still read
//!
//! kind 6, references, version 1; only if the program has any
//!        0     4  number of references in frames, then for each
//!              4  position in the artefact's list of functions, 0xffffffff if null
//!              4  number of tables that the program writes to, then for each
//!                   4  number of entries, then for each
//!                        4  reference, as above
//!
//! kind 7, volumes, version 1; only if the process has any: a list of `Volume` in postcard's encoding
//!
//! kind 8, partners, version 1; only if there are streams between processes: for each of them its id and
//! `Partner`, in postcard's encoding, in order of ids
//! ```
//!
//! A reader reads its own format version and the one before it, and so with every section. It looks
//! at the length before it allocates, at the checksum before it decodes, and it leaves no byte
//! unread. What it returns has passed [`Memory::check`]; that the module has such frames, globals
//! and memories is for the machine to find out, against the artefact.

use super::cursor::Cursor;
use super::error::{DecodeError, malformed};
use super::header::{FORMAT_VERSION, HEADER_BYTES, Header, MAGIC, checksum};
use super::kernel_1::Kernel1;
use super::references::{self, References};
use super::{GlobalValue, Kernel, Memory, PageKind, PageMap, Partner, Phase, Run, Snapshot};
use crate::{ArtefactId, ImageId, StreamId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes before a section's content.
const SECTION_HEADER_BYTES: usize = 12;
/// Kinds from here on may be skipped by a reader that does not know them.
const OPTIONAL_KINDS: u16 = 0x8000;
/// No memory is larger: 2^48 bytes, the address space of today's machines.
const MAX_WASM_PAGES: u64 = 1 << 32;
/// The fewest bytes that an entry of the memory table takes.
const MEMORY_ENTRY_BYTES: usize = 12;
/// The bytes of a run in the memory table.
const RUN_BYTES: usize = 9;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
enum Kind {
    Identity = 1,
    Frames = 2,
    Globals = 3,
    Memories = 4,
    Kernel = 5,
    References = 6,
    Volumes = 7,
    Partners = 8,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Identity,
        Kind::Frames,
        Kind::Globals,
        Kind::Memories,
        Kind::Kernel,
        Kind::References,
        Kind::Volumes,
        Kind::Partners,
    ];
    /// The version of the kind's content that this code writes.
    fn version(self) -> u16 {
        match self {
            Kind::Identity
            | Kind::Frames
            | Kind::Globals
            | Kind::Memories
            | Kind::References
            | Kind::Volumes
            | Kind::Partners => 1,
            Kind::Kernel => 2,
        }
    }

    /// The oldest version of the kind's content that this code reads.
    fn oldest(self) -> u16 {
        1
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Identity => "identity",
            Kind::Frames => "frames",
            Kind::Globals => "globals",
            Kind::Memories => "memories",
            Kind::Kernel => "kernel",
            Kind::References => "references",
            Kind::Volumes => "volumes",
            Kind::Partners => "partners",
        }
    }
}

/// A snapshot ready to be written: everything but the frames and given pages is encoded, and those
/// are borrowed, so that writing copies them exactly once.
pub struct Encoder<'a> {
    snapshot: &'a Snapshot,
    outline: Outline,
}

/// A snapshot with its encoded parts, to be written by somebody else at another time.
pub struct Encoded {
    snapshot: Arc<Snapshot>,
    outline: Outline,
}

/// A snapshot's bytes without the large parts, which stay where they are: see [`large_parts`].
struct Outline {
    /// What precedes each large part, and last what follows them all.
    between: Vec<Vec<u8>>,
    bytes: u64,
}

/// What keeps a snapshot's bytes from being altered on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    /// The checksum in its header.
    Checksum,
    /// The link that carries it: each byte is authenticated there, and hashing it once more at both
    /// ends would be in the downtime of every move.
    Link,
}

/// What stands in place of the checksum where the link protects.
const NO_CHECKSUM: [u8; 32] = [0; 32];

/// The frozen stack and the given pages of each memory, in the order of the sections.
fn large_parts(snapshot: &Snapshot) -> impl Iterator<Item = &[u8]> {
    let given = snapshot.memories.iter().map(|memory| &memory.given[..]);
    std::iter::once(&snapshot.frames[..]).chain(given)
}

impl Outline {
    fn of(snapshot: &Snapshot, protection: Protection) -> Outline {
        let frames = snapshot.frames.len() as u64;
        let given: u64 = snapshot.memories.iter().map(|m| m.given.len() as u64).sum();
        // Each section's content up to its large parts, and the length of these.
        let mut sections = vec![
            (Kind::Identity, identity(snapshot), 0),
            (Kind::Frames, Vec::new(), frames),
            (Kind::Globals, globals(&snapshot.globals), 0),
            (Kind::Memories, memory_table(&snapshot.memories), given),
            (Kind::Kernel, postcard(&snapshot.kernel), 0),
        ];
        if !snapshot.references.is_empty() {
            sections.push((Kind::References, snapshot.references.encode(), 0));
        }
        if !snapshot.volumes.is_empty() {
            sections.push((Kind::Volumes, postcard(&snapshot.volumes), 0));
        }
        if let Some(partners) = partners(&snapshot.kernel) {
            sections.push((Kind::Partners, partners, 0));
        }
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend(FORMAT_VERSION.to_le_bytes());
        header.extend([0; 2]);
        header.extend((sections.len() as u32).to_le_bytes());

        let mut between = Vec::new();
        let mut part = Vec::new();
        let mut body_bytes = 0;
        for (kind, content, large) in sections {
            let length = content.len() as u64 + large;
            part.extend((kind as u16).to_le_bytes());
            part.extend(kind.version().to_le_bytes());
            part.extend(length.to_le_bytes());
            part.extend(content);
            body_bytes += SECTION_HEADER_BYTES as u64 + length;
            let parts = match kind {
                Kind::Frames => 1,
                Kind::Memories => snapshot.memories.len(),
                _ => 0,
            };
            // Nothing lies between the pages of one memory and of the next.
            between.extend((0..parts).map(|_| std::mem::take(&mut part)));
        }
        between.push(part);
        header.extend(body_bytes.to_le_bytes());

        let mut outline = Outline {
            between,
            bytes: body_bytes + HEADER_BYTES as u64,
        };
        let mut checksum = NO_CHECKSUM;
        if protection == Protection::Checksum {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&header);
            for slice in outline.slices(snapshot) {
                hasher.update(slice);
            }
            checksum = *hasher.finalize().as_bytes();
        }
        header.extend(checksum);
        if let Some(first) = outline.between.first_mut() {
            first.splice(..0, header);
        }
        outline
    }

    fn slices<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a [u8]> {
        let large = large_parts(snapshot).chain(std::iter::once(&[][..]));
        let pairs = self.between.iter().zip(large);
        pairs.flat_map(|(small, large)| [&small[..], large])
    }
}

impl Encoder<'_> {
    /// The length of the whole snapshot, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.outline.bytes
    }

    /// The bytes in order, in as many slices as they lie in.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.outline.slices(self.snapshot)
    }
}

impl Encoded {
    /// Encodes all but the large parts for an authenticated link, which protects every byte itself:
    /// without a checksum. Only [`Snapshot::decode_from_link`] reads it.
    pub fn for_link(snapshot: Arc<Snapshot>) -> Encoded {
        Encoded {
            outline: Outline::of(&snapshot, Protection::Link),
            snapshot,
        }
    }

    /// The length of its bytes.
    pub fn total_bytes(&self) -> u64 {
        self.outline.bytes
    }

    /// Its bytes in order, in as many slices as they lie in.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.outline.slices(&self.snapshot)
    }
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoded({} bytes)", self.outline.bytes)
    }
}

impl Snapshot {
    /// Encodes all but the large parts and computes the checksum. A world that stores a snapshot
    /// writes the [`Encoder`]'s slices and copies nothing.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder {
            snapshot: self,
            outline: Outline::of(self, Protection::Checksum),
        }
    }

    /// Writes the snapshot as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let encoder = self.encoder();
        let mut bytes = Vec::with_capacity(encoder.total_bytes() as usize);
        encoder
            .slices()
            .for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    }

    /// Reads a snapshot. `bytes` is the whole of it and nothing else. Allocates no more than a
    /// small multiple of its length.
    pub fn decode(bytes: &[u8]) -> Result<Snapshot, DecodeError> {
        Snapshot::decode_protected(bytes, Protection::Checksum)
    }

    /// Reads a snapshot that came over an authenticated link, from a peer that may be faulty but
    /// whose bytes arrive as they were sent. Takes the bytes over: the pages of the largest memory
    /// stay where they are.
    pub fn decode_from_link(mut bytes: Vec<u8>) -> Result<Snapshot, DecodeError> {
        let (mut snapshot, given) = Snapshot::decode_small(&bytes, Protection::Link)?;
        let largest = given
            .iter()
            .enumerate()
            .max_by_key(|(_, range)| range.len());
        let largest = largest.map(|(index, _)| index);
        for (index, (memory, range)) in snapshot.memories.iter_mut().zip(&given).enumerate() {
            if Some(index) != largest {
                memory.given = bytes.get(range.clone()).unwrap_or_default().to_vec();
            }
        }
        if let Some((index, range)) = largest.and_then(|index| Some((index, given.get(index)?)))
            && let Some(memory) = snapshot.memories.get_mut(index)
        {
            // Moving them to the front of what they lie in costs a fraction of new room for them.
            bytes.truncate(range.end);
            bytes.drain(..range.start.min(range.end));
            memory.given = bytes;
        }
        snapshot.check_memories()
    }

    fn decode_protected(bytes: &[u8], protection: Protection) -> Result<Snapshot, DecodeError> {
        let (mut snapshot, given) = Snapshot::decode_small(bytes, protection)?;
        for (memory, range) in snapshot.memories.iter_mut().zip(given) {
            memory.given = bytes.get(range).unwrap_or_default().to_vec();
        }
        snapshot.check_memories()
    }

    /// All but the given pages, and where those of each memory lie in `bytes`.
    fn decode_small(
        bytes: &[u8],
        protection: Protection,
    ) -> Result<(Snapshot, Vec<Range<usize>>), DecodeError> {
        let header = Header::read(bytes)?;
        let (have, need) = (bytes.len() as u64, header.total_bytes());
        if have < need {
            return Err(DecodeError::Truncated { have, need });
        }
        if have > need {
            let extra = have - need;
            return Err(DecodeError::Trailing { extra });
        }
        let (head, body) = bytes.split_at(HEADER_BYTES);
        let expected = match protection {
            Protection::Checksum => checksum(head, body),
            Protection::Link => NO_CHECKSUM,
        };
        if expected != header.checksum {
            return Err(DecodeError::Altered);
        }
        decode_body(header.sections, body)
    }

    fn check_memories(self) -> Result<Snapshot, DecodeError> {
        for (index, memory) in self.memories.iter().enumerate() {
            let checked = memory.check();
            checked.map_err(|error| DecodeError::Memory { index, error })?;
        }
        Ok(self)
    }
}

fn identity(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::with_capacity(65);
    out.extend(snapshot.image.0);
    out.extend(snapshot.artefact.0);
    out.push(match snapshot.phase {
        Phase::Born => 0,
        Phase::Start => 1,
        Phase::Main => 2,
    });
    out
}

fn globals(globals: &[GlobalValue]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 9 * globals.len());
    out.extend((globals.len() as u32).to_le_bytes());
    for global in globals {
        match global {
            GlobalValue::I32(value) => {
                out.push(0);
                out.extend(value.to_le_bytes());
            }
            GlobalValue::I64(value) => {
                out.push(1);
                out.extend(value.to_le_bytes());
            }
            GlobalValue::F32(value) => {
                out.push(2);
                out.extend(value.to_le_bytes());
            }
            GlobalValue::F64(value) => {
                out.push(3);
                out.extend(value.to_le_bytes());
            }
            GlobalValue::V128(value) => {
                out.push(4);
                out.extend(value);
            }
            GlobalValue::Function(reference) => {
                out.push(5);
                out.extend(references::encode(*reference));
            }
        }
    }
    out
}

fn memory_table(memories: &[Memory]) -> Vec<u8> {
    let runs: usize = memories.iter().map(|memory| memory.map.runs.len()).sum();
    let mut out = Vec::with_capacity(4 + memories.len() * MEMORY_ENTRY_BYTES + runs * RUN_BYTES);
    out.extend((memories.len() as u32).to_le_bytes());
    for memory in memories {
        out.extend(memory.wasm_pages.to_le_bytes());
        out.extend((memory.map.runs.len() as u32).to_le_bytes());
        for run in &memory.map.runs {
            out.push(match run.kind {
                PageKind::Zero => 0,
                PageKind::Image => 1,
                PageKind::Given => 2,
            });
            out.extend(run.pages.to_le_bytes());
        }
    }
    out
}

fn postcard<T: serde::Serialize>(content: &T) -> Vec<u8> {
    // Writing to memory cannot fail, and every type of these sections can be written.
    postcard::to_allocvec(content).expect("the section is serialisable")
}

/// The partners of streams; none if no stream has one.
fn partners(kernel: &Kernel) -> Option<Vec<u8>> {
    let streams = kernel.streams.iter();
    let partners = streams.filter_map(|stream| Some((stream.id, stream.partner.as_ref()?)));
    let mut partners: Vec<(StreamId, &Partner)> = partners.collect();
    partners.sort_by_key(|(id, _)| *id);
    // Writing to memory cannot fail, and every partner can be written.
    let encode = || postcard::to_allocvec(&partners).expect("partners are serialisable");
    (!partners.is_empty()).then(encode)
}

/// Gives streams their partners.
fn take_partners(kernel: &mut Kernel, content: Cursor<'_>) -> Result<(), DecodeError> {
    let section = content.section;
    let partners: Vec<(StreamId, Partner)> = decode_postcard(content)?;
    let wrong = |what: &str| Err(malformed(section, what.to_owned()));
    if partners.is_empty() || !partners.is_sorted_by(|a, b| a.0 < b.0) {
        return wrong("it is empty, or its streams are not in order");
    }
    let mut partners: BTreeMap<StreamId, Partner> = partners.into_iter().collect();
    for stream in &mut kernel.streams {
        stream.partner = partners.remove(&stream.id);
    }
    match partners.is_empty() {
        true => Ok(()),
        false => wrong("a stream has a partner that is not there"),
    }
}

/// Finds the sections, then decodes each.
fn decode_body(count: u32, body: &[u8]) -> Result<(Snapshot, Vec<Range<usize>>), DecodeError> {
    /// A section's version, where in the snapshot its content begins, and that.
    type Content<'a> = (u16, usize, &'a [u8]);
    let mut contents: [Option<Content<'_>>; Kind::ALL.len()] = Default::default();
    let mut previous = None;
    let mut cursor = Cursor {
        section: "header",
        rest: body,
    };
    for _ in 0..count {
        let kind = cursor.u16()?;
        let version = cursor.u16()?;
        let length = cursor.u64()?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let begin = HEADER_BYTES + body.len() - cursor.rest.len();
        let content = cursor.take(length)?;
        match previous {
            Some(after) if kind == after => return Err(DecodeError::DuplicateSection { kind }),
            Some(after) if kind < after => return Err(DecodeError::SectionOrder { kind, after }),
            _ => previous = Some(kind),
        }
        let known = Kind::ALL
            .iter()
            .zip(&mut contents)
            .find(|(known, _)| **known as u16 == kind);
        match known {
            Some((known, place)) => {
                if !(known.oldest()..=known.version()).contains(&version) {
                    return Err(DecodeError::SectionVersion {
                        section: known.name(),
                        version,
                        known: known.version(),
                    });
                }
                *place = Some((version, begin, content));
            }
            None if kind >= OPTIONAL_KINDS => {}
            None => return Err(DecodeError::UnknownSection { kind }),
        }
    }
    cursor.finish()?;

    let section = |kind: Kind| {
        let missing = || DecodeError::MissingSection {
            section: kind.name(),
        };
        let found = Kind::ALL.iter().position(|known| *known == kind);
        let content = found.and_then(|at| contents.get(at).copied().flatten());
        content.map_or_else(
            || Err(missing()),
            |(version, begin, rest)| {
                let section = kind.name();
                Ok((version, begin, Cursor { section, rest }))
            },
        )
    };
    let (image, artefact, phase) = decode_identity(section(Kind::Identity)?.2)?;
    let frames = section(Kind::Frames)?.2.rest;
    let globals = decode_globals(section(Kind::Globals)?.2)?;
    let references = match section(Kind::References) {
        Ok((_, _, content)) => References::decode(content)?,
        Err(_) => References::default(),
    };
    let (_, begin, memories) = section(Kind::Memories)?;
    let (kernel_version, _, kernel) = section(Kind::Kernel)?;
    let (memories, given) = decode_memories(memories, begin)?;
    let volumes = match section(Kind::Volumes) {
        Ok((_, _, content)) => decode_postcard(content)?,
        Err(_) => Vec::new(),
    };
    let mut kernel = match kernel_version {
        1 => decode_postcard::<Kernel1>(kernel)?.into(),
        _ => decode_postcard(kernel)?,
    };
    if let Ok((_, _, content)) = section(Kind::Partners) {
        take_partners(&mut kernel, content)?;
    }
    let snapshot = Snapshot {
        image,
        artefact,
        phase,
        frames: frames.to_vec(),
        globals,
        references,
        memories,
        kernel,
        volumes,
    };
    Ok((snapshot, given))
}

fn decode_identity(mut cursor: Cursor<'_>) -> Result<(ImageId, ArtefactId, Phase), DecodeError> {
    let image = ImageId(cursor.array()?);
    let artefact = ArtefactId(cursor.array()?);
    let phase = match cursor.u8()? {
        0 => Phase::Born,
        1 => Phase::Start,
        2 => Phase::Main,
        other => return Err(malformed(cursor.section, format!("{other} is no phase"))),
    };
    cursor.finish()?;
    Ok((image, artefact, phase))
}

fn decode_globals(mut cursor: Cursor<'_>) -> Result<Vec<GlobalValue>, DecodeError> {
    let count = cursor.count(5, "globals")?;
    let mut globals = Vec::with_capacity(count);
    for _ in 0..count {
        globals.push(match cursor.u8()? {
            0 => GlobalValue::I32(cursor.u32()?),
            1 => GlobalValue::I64(cursor.u64()?),
            2 => GlobalValue::F32(cursor.u32()?),
            3 => GlobalValue::F64(cursor.u64()?),
            4 => GlobalValue::V128(cursor.array()?),
            5 => GlobalValue::Function(references::decode(cursor.u32()?)),
            other => {
                let reason = format!("{other} is no type of a global");
                return Err(malformed(cursor.section, reason));
            }
        });
    }
    cursor.finish()?;
    Ok(globals)
}

/// The memories without their given pages, and where in the snapshot those lie. `begin` is where the
/// section's content does.
fn decode_memories(
    mut cursor: Cursor<'_>,
    begin: usize,
) -> Result<(Vec<Memory>, Vec<Range<usize>>), DecodeError> {
    let length = cursor.rest.len();
    let count = cursor.count(MEMORY_ENTRY_BYTES, "memories")?;
    let mut memories = Vec::with_capacity(count);
    for _ in 0..count {
        let wasm_pages = cursor.u64()?;
        if wasm_pages > MAX_WASM_PAGES {
            let reason = format!("a memory of {wasm_pages} pages of 64 KiB is beyond any machine");
            return Err(malformed(cursor.section, reason));
        }
        let runs = decode_runs(&mut cursor)?;
        memories.push(Memory {
            wasm_pages,
            map: PageMap { runs },
            given: Vec::new(),
        });
    }
    let mut ranges = Vec::with_capacity(count);
    for memory in &memories {
        let given = memory.map.count(PageKind::Given) * super::PAGE_BYTES as u128;
        let given = usize::try_from(given).unwrap_or(usize::MAX);
        let start = begin + length - cursor.rest.len();
        cursor.take(given)?;
        ranges.push(start..start + given);
    }
    cursor.finish()?;
    Ok((memories, ranges))
}

fn decode_runs(cursor: &mut Cursor<'_>) -> Result<Vec<Run>, DecodeError> {
    let count = cursor.count(RUN_BYTES, "runs")?;
    let mut runs: Vec<Run> = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = match cursor.u8()? {
            0 => PageKind::Zero,
            1 => PageKind::Image,
            2 => PageKind::Given,
            other => {
                let reason = format!("{other} is no kind of page");
                return Err(malformed(cursor.section, reason));
            }
        };
        let pages = cursor.u64()?;
        if pages == 0 || runs.last().is_some_and(|last| last.kind == kind) {
            return Err(malformed(
                cursor.section,
                "its runs are not of maximal length",
            ));
        }
        runs.push(Run { kind, pages });
    }
    Ok(runs)
}

fn decode_postcard<T: serde::de::DeserializeOwned>(cursor: Cursor<'_>) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(cursor.rest)
        .map_err(|error| malformed(cursor.section, error.to_string()))?;
    Cursor { rest, ..cursor }.finish()?;
    Ok(value)
}
