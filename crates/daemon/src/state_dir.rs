//! A node's directory on disk.
//!
//! ```text
//! STATE/            0700
//!   lock            held while a daemon runs here
//!   limosa.sock     the API (0600)
//!   node.key        the secret key, PKCS#8 DER (0600)
//!   incarnation     how often a daemon has been started here
//!   fleet.json      the fleet as last known: directory's node, members, ticket secret (0600)
//!   directory.redb  the directory, on the node that keeps it (0600)
//!   images/         modules, named by their hash
//!   cache/          compiled code, this machine's own
//!   logs/           what processes wrote, and how they ended
//! ```
//!
//! Files are replaced whole or not at all: written beside, synced, renamed.
//!
//! What is in it lets its reader act as the node and admit others, so it is its owner's alone. A
//! directory of somebody else is refused; one that others may enter is closed to them.

use crate::links::identity::{self, Identity, IdentityError};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use wire::NodeId;
use wire::control::Member;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It belongs to somebody else, who could read the node's key and replace its files.
    #[error(
        "the state directory {} belongs to user {owner}, not to user {me} who runs this; choose \
         another with --state",
        path.display()
    )]
    OthersOwn {
        /// The directory.
        path: PathBuf,
        /// Whose it is, as a user id.
        owner: u32,
        /// Who asks.
        me: u32,
    },
    /// Others use it: it is no state directory, and would be closed to them.
    #[error(
        "{} is open to other users and holds other things than a node's state; choose a directory \
         of its own with --state",
        .0.display()
    )]
    Shared(PathBuf),
    /// Another daemon runs on it.
    #[error(
        "another limosa daemon runs with the state directory {}; stop it, or choose another with --state",
        .0.display()
    )]
    Locked(PathBuf),
    /// A file's content makes no sense.
    #[error("{} is damaged: {reason}; remove it to start afresh", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key cannot be used.
    #[error("{}: {source}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { what, path, source }
}

/// The fleet as last known, kept so that a restarted node finds the others again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    /// The node that keeps the directory.
    pub directory: NodeId,
    /// Members as last known, this node's own entry included.
    pub members: Vec<Member>,
    /// What a ticket proves to know, in hexadecimal; only at the directory's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_secret: Option<String>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.ticket_secret.as_ref().map(|_| "not shown");
        f.debug_struct("Fleet")
            .field("directory", &self.directory)
            .field("members", &self.members)
            .field("ticket_secret", &secret)
            .finish()
    }
}

/// Files that nobody else may read or write.
const PRIVATE_FILES: [&str; 5] = [
    "node.key",
    "fleet.json",
    "directory.redb",
    "limosa.log",
    "limosa.log.1",
];

/// Whether others may get at something of this user's; what belongs to somebody else is an error.
fn is_open(path: &Path) -> Result<bool, StateError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("look at", path)(error)),
    };
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != me {
        let path = path.to_owned();
        return Err(StateError::OthersOwn { path, owner, me });
    }
    Ok(metadata.mode() & 0o077 != 0)
}

/// Whether a directory is a node's, or nobody's yet.
fn is_ours(root: &Path) -> Result<bool, StateError> {
    if root.join("node.key").exists() {
        return Ok(true);
    }
    let mut entries = fs::read_dir(root).map_err(io_error("read", root))?;
    // The log is there before the first start in the background.
    Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "limosa.log")))
}

/// Makes sure that something is this user's alone, if it is there.
fn close_to_others(path: &Path) -> Result<(), StateError> {
    if !is_open(path)? {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "others could get at it; closed to them");
    let failed = |error| io_error("close to others", path)(error);
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o700;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// A locked state directory.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory where it is missing, and locks it.
    pub fn open(root: &Path) -> Result<StateDir, StateError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root).map_err(io_error("create", root))?;
        if is_open(root)? && !is_ours(root)? {
            return Err(StateError::Shared(root.to_owned()));
        }
        close_to_others(root)?;
        for directory in ["images", "cache", "logs", "kept"] {
            let path = root.join(directory);
            builder.create(&path).map_err(io_error("create", &path))?;
            close_to_others(&path)?;
        }
        // They may be from elsewhere: copied, or unpacked from a backup.
        for file in PRIVATE_FILES {
            close_to_others(&root.join(file))?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Locked(root.to_owned())),
            Err(errno) => return Err(io_error("lock", &path)(errno.into())),
        }
        Ok(StateDir {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The node's identity, made at the first start.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let path = self.path("node.key");
        let secret = match fs::read(&path) {
            Ok(secret) => secret,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = identity::generate().map_err(|source| StateError::Key {
                    path: path.clone(),
                    source,
                })?;
                write_whole(&path, &secret)?;
                secret
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        Identity::new(&secret).map_err(|source| StateError::Key { path, source })
    }

    /// Raises the count of starts and returns it; durable before any process may run.
    pub fn next_incarnation(&self) -> Result<u64, StateError> {
        let path = self.path("incarnation");
        let last = match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse::<u64>()
                .map_err(|error| StateError::Damaged {
                    path: path.clone(),
                    reason: error.to_string(),
                })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let next = last.saturating_add(1);
        write_whole(&path, format!("{next}\n").as_bytes())?;
        Ok(next)
    }

    /// The fleet as last known, if the node has been in one.
    pub fn fleet(&self) -> Result<Option<Fleet>, StateError> {
        let path = self.path("fleet.json");
        match fs::read(&path) {
            Ok(json) => match serde_json::from_slice(&json) {
                Ok(fleet) => Ok(Some(fleet)),
                Err(error) => Err(StateError::Damaged {
                    path,
                    reason: error.to_string(),
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Keeps the fleet for the next start.
    pub fn keep_fleet(&self, fleet: &Fleet) -> Result<(), StateError> {
        let path = self.path("fleet.json");
        let json = serde_json::to_vec_pretty(fleet).map_err(|error| StateError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        write_whole(&path, &json)
    }
}

/// Whether a daemon runs on this state directory.
pub fn is_in_use(root: &Path) -> bool {
    let Ok(lock) = File::open(root.join("lock")) else {
        return false;
    };
    // Shared, so that those who look do not see each other.
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

/// Replaces a file (mode 0600) as a whole: after a crash there is the old content or the new.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), StateError> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new.{}", WRITES.fetch_add(1, Ordering::Relaxed)));
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|error| {
        // Nothing half-written stays; the removal may itself fail without harm.
        let _ = fs::remove_file(&beside);
        io_error("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let held = StateDir::open(directory.path()).unwrap();
        assert!(is_in_use(directory.path()));
        let error = StateDir::open(directory.path()).unwrap_err();
        assert!(matches!(error, StateError::Locked(_)), "{error}");
        drop(held);
        assert!(!is_in_use(directory.path()));
    }

    #[test]
    fn a_node_keeps_its_id_and_counts_its_starts() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDir::open(directory.path()).unwrap();
        let node = first.identity().unwrap().node();
        assert_eq!(first.next_incarnation().unwrap(), 1);
        drop(first);
        let second = StateDir::open(directory.path()).unwrap();
        assert_eq!(second.identity().unwrap().node(), node);
        assert_eq!(second.next_incarnation().unwrap(), 2);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_others_could_read_is_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("state");
        let state = StateDir::open(&root).unwrap();
        state.identity().unwrap();
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&state.path("node.key")), 0o600);
        drop(state);
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        open(&root, 0o755);
        open(&root.join("logs"), 0o777);
        open(&root.join("node.key"), 0o644);
        fs::write(root.join("directory.redb"), b"").unwrap();
        open(&root.join("directory.redb"), 0o666);
        StateDir::open(&root).unwrap();
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("logs")), 0o700);
        assert_eq!(mode(&root.join("node.key")), 0o600);
        assert_eq!(mode(&root.join("directory.redb")), 0o600);
    }

    #[test]
    fn a_directory_that_others_use_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("shared");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(root.join("theirs"), b"").unwrap();
        let error = StateDir::open(&root).unwrap_err();
        assert!(matches!(error, StateError::Shared(_)), "{error}");
        assert_eq!(mode(&root), 0o777);
        fs::remove_file(root.join("theirs")).unwrap();
        StateDir::open(&root).unwrap();
        assert_eq!(mode(&root), 0o700);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("state");
        fs::create_dir(&root).unwrap();
        let others = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&root, Some(65534), None).unwrap();
            root
        } else {
            PathBuf::from("/")
        };
        let error = StateDir::open(&others).unwrap_err();
        let refused = matches!(error, StateError::OthersOwn { .. } | StateError::Io { .. });
        assert!(refused, "{error}");
        assert!(!others.join("lock").exists());
    }

    #[test]
    fn the_secret_of_the_ticket_is_not_shown_by_debug() {
        let node = NodeId([1; 32]);
        let fleet = Fleet {
            directory: node,
            members: Vec::new(),
            ticket_secret: Some("5ec7e7".to_owned()),
        };
        let shown = format!("{fleet:?}");
        assert!(!shown.contains("5ec7e7"), "{shown}");
    }

    #[test]
    fn a_damaged_fleet_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        fs::write(state.path("fleet.json"), b"{").unwrap();
        let error = state.fleet().unwrap_err();
        assert!(
            error.to_string().contains("fleet.json is damaged"),
            "{error}"
        );
    }
}
