//! The bytes of an open file, wherever it is: in the process's own tree, or on a volume.

use super::Kernel;
use super::abi::Call;

/// Where a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// In the tree: its inode.
    Tree(u64),
    /// On a volume: its descriptor.
    Volume(u32),
}

impl Kernel {
    pub(super) fn size_of(&self, store: Store) -> Call<u64> {
        match store {
            Store::Tree(inode) => Ok(self.tree.size(inode)),
            Store::Volume(descriptor) => self.volumes.size(descriptor),
        }
    }

    pub(super) fn read_at(&self, store: Store, position: u64, buffer: &mut [u8]) -> Call<usize> {
        match store {
            Store::Tree(inode) => self.tree.read(inode, position, buffer),
            Store::Volume(descriptor) => self.volumes.read(descriptor, position, buffer),
        }
    }

    /// Writes; in the tree all or, where there is no room, nothing.
    pub(super) fn write_at(&mut self, store: Store, position: u64, bytes: &[u8]) -> Call<usize> {
        match store {
            Store::Tree(inode) => {
                self.tree.write(inode, position, bytes)?;
                Ok(bytes.len())
            }
            Store::Volume(descriptor) => self.volumes.write(descriptor, position, bytes),
        }
    }

    pub(super) fn resize(&mut self, store: Store, size: u64) -> Call {
        match store {
            Store::Tree(inode) => {
                let now = self.now_ns();
                self.tree.resize(inode, size)?;
                self.tree.touch_modified(inode, now);
                Ok(())
            }
            Store::Volume(descriptor) => self.volumes.resize(descriptor, size),
        }
    }

    /// Notes that a file was read. The system notes by itself what happens on volumes.
    pub(super) fn note_read(&mut self, store: Store) {
        if let Store::Tree(inode) = store {
            let now = self.now_ns();
            self.tree.touch_accessed(inode, now);
        }
    }

    /// Notes that a file was written.
    pub(super) fn note_written(&mut self, store: Store) {
        if let Store::Tree(inode) = store {
            let now = self.now_ns();
            self.tree.touch_modified(inode, now);
        }
    }
}
