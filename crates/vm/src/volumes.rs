//! Volumes: directories of this machine that a process uses where they are, outside its own file
//! tree. Who opens one grants it; a snapshot that names it does not.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Volumes that a process may have.
pub const MAX_VOLUMES: usize = 64;

/// A volume that cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// It is not in a directory that processes may be given.
    #[error(
        "the volume {volume} is in no directory that processes may be given on this node; start \
         the node with `--volumes DIR` for one above it"
    )]
    NotAllowed {
        /// The volume.
        volume: String,
    },
    /// There is no directory, or it cannot be opened.
    #[error("the volume {volume} cannot be opened: {reason}; name a directory that is there")]
    Unopened {
        /// The volume.
        volume: String,
        /// Why.
        reason: String,
    },
    /// The system cannot confine paths.
    #[error(
        "volumes need the system call openat2, of Linux 5.6 and later, which is not allowed here"
    )]
    Unconfined,
}

/// A directory that was opened for a process.
#[derive(Debug)]
pub struct Volume {
    /// What the process knows of it.
    pub description: wire::snapshot::Volume,
    root: OwnedFd,
}

impl Volume {
    /// Opens a volume on behalf of the user who runs this.
    pub fn open(description: wire::snapshot::Volume) -> Result<Volume, VolumeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(description.source.as_str(), flags, Mode::empty());
        Volume::confined(description, opened)
    }

    /// Opens a volume that is one of the directories `allowed`, or beneath one: no link leads out.
    pub fn open_within(
        description: wire::snapshot::Volume,
        allowed: &[PathBuf],
    ) -> Result<Volume, VolumeError> {
        let source = Path::new(&description.source);
        let above = allowed
            .iter()
            .find_map(|above| Some((above, source.strip_prefix(above).ok()?)));
        let Some((above, inside)) = above else {
            return Err(VolumeError::NotAllowed {
                volume: description.to_string(),
            });
        };
        let inside = match inside.as_os_str().is_empty() {
            true => Path::new("."),
            false => inside,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(above, flags, Mode::empty())
            .and_then(|above| beneath(above.as_fd(), inside));
        Volume::confined(description, opened)
    }

    fn confined(
        description: wire::snapshot::Volume,
        opened: rustix::io::Result<OwnedFd>,
    ) -> Result<Volume, VolumeError> {
        // What a path beneath needs is tried once, here, where there is somebody to be told.
        let tried = opened.and_then(|root| {
            beneath(root.as_fd(), Path::new("."))?;
            Ok(root)
        });
        match tried {
            Ok(root) => Ok(Volume { description, root }),
            Err(rustix::io::Errno::NOSYS) => Err(VolumeError::Unconfined),
            Err(error) => Err(VolumeError::Unopened {
                volume: description.to_string(),
                reason: match error {
                    rustix::io::Errno::XDEV => "a link leads out of what may be given".to_owned(),
                    error => error.to_string(),
                },
            }),
        }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

fn beneath(above: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(above, path, flags, Mode::empty(), resolve)
}
