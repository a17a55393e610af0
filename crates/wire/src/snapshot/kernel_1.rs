//! The kernel section as the release before wrote it, version 1: files were one string of bytes, and
//! directories did not count their entries.

use super::{
    Content, Descriptor, Directory, Entry, FileTree, Inode, InodeKind, Kernel, Limits, Listener,
    Pending, Stream,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What differs from [`Kernel`] is `files`.
#[derive(Deserialize)]
pub(super) struct Kernel1 {
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    descriptors: BTreeMap<u32, Descriptor>,
    files: FileTree1,
    listeners: Vec<Listener>,
    streams: Vec<Stream>,
    monotonic_ns: u64,
    pending: Option<Pending1>,
    generation: u64,
    cpu_ns: u64,
    freezes: u64,
    limits: Limits,
}

#[derive(Deserialize)]
enum Pending1 {
    Poll { deadlines: Vec<(u32, u64)> },
}

#[derive(Deserialize)]
struct FileTree1 {
    inodes: BTreeMap<u64, Inode1>,
    next: u64,
}

#[derive(Deserialize)]
struct Inode1 {
    node: Node1,
    accessed_ns: u64,
    modified_ns: u64,
    changed_ns: u64,
    links: u64,
}

#[derive(Deserialize)]
enum Node1 {
    File(#[serde(with = "serde_bytes")] Vec<u8>),
    Directory {
        entries: BTreeMap<Vec<u8>, u64>,
        parent: u64,
    },
    Link(Vec<u8>),
}

impl From<Kernel1> for Kernel {
    fn from(old: Kernel1) -> Kernel {
        let Kernel1 {
            args,
            env,
            descriptors,
            files,
            listeners,
            streams,
            monotonic_ns,
            pending,
            generation,
            cpu_ns,
            freezes,
            limits,
        } = old;
        let inodes = files.inodes.into_iter();
        Kernel {
            args,
            env,
            descriptors,
            files: FileTree {
                inodes: inodes
                    .map(|(number, inode)| (number, inode.into()))
                    .collect(),
                next: files.next,
            },
            listeners,
            streams,
            monotonic_ns,
            pending: pending.map(|Pending1::Poll { deadlines }| Pending::Poll { deadlines }),
            generation,
            cpu_ns,
            freezes,
            limits,
        }
    }
}

impl From<Inode1> for Inode {
    fn from(old: Inode1) -> Inode {
        Inode {
            node: match old.node {
                Node1::File(bytes) => InodeKind::File(Content::from(bytes.as_slice())),
                Node1::Directory { entries, parent } => {
                    InodeKind::Directory(count_entries(entries, parent))
                }
                Node1::Link(target) => InodeKind::Link(target),
            },
            accessed_ns: old.accessed_ns,
            modified_ns: old.modified_ns,
            changed_ns: old.changed_ns,
            links: old.links,
        }
    }
}

/// Entries are counted in the order that they were listed in, which was by inode. A program that
/// was frozen in the middle of a listing sees it from the beginning once more: its place in it was
/// a number far above all that are given now.
fn count_entries(entries: BTreeMap<Vec<u8>, u64>, parent: u64) -> Directory {
    let mut by_inode: Vec<_> = entries.into_iter().collect();
    by_inode.sort_by_key(|(_, inode)| std::cmp::Reverse(*inode));
    let next = by_inode.len() as u64;
    let entries = by_inode.into_iter().zip(0..);
    let entries = entries.map(|((name, inode), serial)| (name, Entry { inode, serial }));
    Directory {
        entries: entries.collect(),
        parent,
        next,
    }
}
