//! Why bytes are not a snapshot that this code can read.

use super::PageMapError;

/// Bytes that are not a snapshot this code can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It does not begin like one.
    #[error(
        "this is not a Limosa snapshot: it does not begin with the bytes that every snapshot \
         begins with; give a file that `limosa checkpoint` wrote"
    )]
    NotASnapshot,
    /// There are fewer bytes than there must be.
    #[error(
        "the snapshot is truncated: {have} bytes of {need} are there; it was cut off while it was \
         written or copied: copy it again"
    )]
    Truncated {
        /// Bytes there.
        have: u64,
        /// Bytes that it must have, as far as can be told.
        need: u64,
    },
    /// There are more bytes than it says it has.
    #[error(
        "{extra} bytes follow the end of the snapshot; two files may have been joined: copy it \
         again"
    )]
    Trailing {
        /// Bytes too many.
        extra: u64,
    },
    /// A release after this one wrote it.
    #[error(
        "the snapshot has format version {version}; this release reads up to {newest}: restore it \
         with the release that wrote it, or a later one"
    )]
    Newer {
        /// Its version.
        version: u16,
        /// The newest version that can be read.
        newest: u16,
    },
    /// A release long before this one wrote it.
    #[error(
        "the snapshot has format version {version}; this release reads {oldest} and later: restore \
         it with an older release and take it again with one in between"
    )]
    Older {
        /// Its version.
        version: u16,
        /// The oldest version that can be read.
        oldest: u16,
    },
    /// Its bytes are not those that were written.
    #[error(
        "the snapshot was altered: its checksum does not match its content; copy it again, or take \
         a new one"
    )]
    Altered,
    /// A section that cannot be skipped is of a kind that this release does not know.
    #[error(
        "the snapshot has a section of kind {kind}, which this release does not know and may not \
         skip: restore it with the release that wrote it, or a later one"
    )]
    UnknownSection {
        /// The kind.
        kind: u16,
    },
    /// A section's content is of a version that this release does not know.
    #[error(
        "the snapshot's {section} section has version {version}; this release reads up to {known}: \
         restore it with the release that wrote it, or a later one"
    )]
    SectionVersion {
        /// The section.
        section: &'static str,
        /// Its version.
        version: u16,
        /// The newest version that can be read.
        known: u16,
    },
    /// A section is there twice.
    #[error("the snapshot has two sections of kind {kind}; whatever wrote it is faulty")]
    DuplicateSection {
        /// The kind.
        kind: u16,
    },
    /// A section comes after one of a higher kind.
    #[error(
        "the snapshot's section of kind {kind} comes after one of kind {after}; whatever wrote it \
         is faulty"
    )]
    SectionOrder {
        /// The kind.
        kind: u16,
        /// The kind before it.
        after: u16,
    },
    /// A section is not there.
    #[error("the snapshot has no {section} section; whatever wrote it is faulty")]
    MissingSection {
        /// The section.
        section: &'static str,
    },
    /// A section's content is not what its kind holds.
    #[error("the snapshot's {section} section is malformed: {reason}; whatever wrote it is faulty")]
    Malformed {
        /// The section, or "header".
        section: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A memory's page map does not fit it.
    #[error("memory {index} of the snapshot does not fit together: {error}")]
    Memory {
        /// Index of the memory.
        index: usize,
        /// What is wrong.
        error: PageMapError,
    },
}

pub(super) fn malformed(section: &'static str, reason: impl Into<String>) -> DecodeError {
    DecodeError::Malformed {
        section,
        reason: reason.into(),
    }
}
