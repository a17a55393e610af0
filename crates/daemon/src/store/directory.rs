//! The directory's records in redb, on the node that keeps it.
//!
//! A change is answered only once it is durable: a grant that a crash could undo would let two
//! nodes run one process. So every answer waits for a sync of the disk, and a move has two of them
//! in its downtime (the source's proposal, the target's activation). They are kept cheap by *group
//! commit*: one thread takes all changes that have come meanwhile and makes them one transaction.
//!
//! Format: table `records` from process id to the record as JSON; table `meta` with `format` = 1 and
//! `floor`, the highest epoch of all records that were removed (absent: 0).

use node::event::Change;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use wire::Epoch;
use wire::directory::Record;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
const FLOOR: &str = "floor";
/// Changes that may wait for a commit. The node has one open change per record and request, so
/// this is reached only if the disk stands still; then its loop waits, too.
const WAITING: usize = 4096;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// redb says no.
    #[error("the directory's store {}: {reason}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Written by a later release.
    #[error(
        "the directory's store {} has format {found}, this release knows {FORMAT}: use a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
}

/// The open store. Dropping it commits what waits and ends the thread.
#[derive(Debug)]
pub struct DirectoryStore {
    queue: Option<SyncSender<(u64, Change)>>,
    thread: Option<JoinHandle<()>>,
}

impl DirectoryStore {
    /// Opens or makes the store and reads all records and the floor. `stored` is called, from the store's own
    /// thread, with the ticket of every change once it is durable or was not made; in order.
    /// `lost` is called if it cannot be known which of the two: nothing is stored or answered from
    /// then on, and whoever asks must learn the truth from a new start.
    pub fn open(
        path: &Path,
        stored: impl Fn(u64, Result<(), String>) + Send + 'static,
        lost: impl FnOnce(String) + Send + 'static,
    ) -> Result<(DirectoryStore, Vec<Record>, Epoch), StoreError> {
        let failed = |reason: String| StoreError::Database {
            path: path.to_owned(),
            reason,
        };
        let database = open_database(path).map_err(|error| failed(error.to_string()))?;
        let (format, records, floor) =
            prepare(&database).map_err(|error| failed(error.to_string()))?;
        if format != FORMAT {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found: format,
            });
        }
        let records = records
            .iter()
            .map(|json| serde_json::from_slice(json).map_err(|error| failed(error.to_string())))
            .collect::<Result<Vec<Record>, StoreError>>()?;
        let (queue, waiting) = mpsc::sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("directory".to_owned())
            .spawn(move || commit_all(&database, &waiting, stored, lost))
            .map_err(|error| failed(error.to_string()))?;
        let store = DirectoryStore {
            queue: Some(queue),
            thread: Some(thread),
        };
        Ok((store, records, floor))
    }

    /// Makes a change durable, in order with the others.
    pub fn store(&self, ticket: u64, change: Change) {
        if let Some(queue) = &self.queue {
            // The thread ends only after this sender is gone.
            let _ = queue.send((ticket, change));
        }
    }
}

impl Drop for DirectoryStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens the file with every block that it has really there: a sync of data alone is then enough,
/// and does not wait for the file system's journal and with it for what others write.
fn open_database(path: &Path) -> Result<Database, redb::Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let backend = Filled(FileBackend::new(file)?);
    Ok(Builder::new().create_with_backend(backend)?)
}

/// A file that grows by zeros that are written, not by holes.
#[derive(Debug)]
struct Filled(FileBackend);

/// Growth beyond this is left to be holes: it is rare, and would take long.
const FILLED: u64 = 64 << 20;

impl StorageBackend for Filled {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let before = self.0.len()?;
        self.0.set_len(length)?;
        if length > before && length - before <= FILLED {
            let zeros = vec![0; 1 << 20];
            let mut at = before;
            while at < length {
                let step = usize::try_from(length - at).unwrap_or(usize::MAX);
                let part = zeros.get(..step).unwrap_or(&zeros);
                self.0.write(at, part)?;
                at += part.len() as u64;
            }
            self.0.sync_data()?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

fn prepare(database: &Database) -> Result<(u64, Vec<Vec<u8>>, Epoch), redb::Error> {
    let write = database.begin_write()?;
    let (format, floor) = {
        write.open_table(RECORDS)?;
        let mut meta = write.open_table(META)?;
        let found = meta.get("format")?.map(|format| format.value());
        let floor = meta.get(FLOOR)?.map_or(0, |floor| floor.value());
        let format = match found {
            Some(format) => format,
            None => {
                meta.insert("format", FORMAT)?;
                FORMAT
            }
        };
        (format, Epoch(floor))
    };
    write.commit()?;
    let read = database.begin_read()?;
    let table = read.open_table(RECORDS)?;
    let mut records = Vec::new();
    for entry in table.iter()? {
        records.push(entry?.1.value().to_vec());
    }
    Ok((format, records, floor))
}

fn commit_all(
    database: &Database,
    waiting: &Receiver<(u64, Change)>,
    stored: impl Fn(u64, Result<(), String>),
    lost: impl FnOnce(String),
) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(WAITING));
        let result = match apply(database, &group) {
            Ok(transaction) => match transaction.commit() {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::error!(%error, "the directory's store failed in a commit");
                    return lost(error.to_string());
                }
            },
            // Nothing of a transaction that was not committed is ever seen.
            Err(error) => {
                tracing::error!(%error, changes = group.len(), "the directory's store failed");
                Err(error.to_string())
            }
        };
        for (ticket, _) in group {
            stored(ticket, result.clone());
        }
    }
}

fn apply(database: &Database, group: &[(u64, Change)]) -> Result<WriteTransaction, redb::Error> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(RECORDS)?;
        let mut floor = 0;
        for (_, change) in group {
            match change {
                Change::Put(record) => {
                    let json = serde_json::to_vec(record)
                        .map_err(|error| redb::Error::Io(error.into()))?;
                    table.insert(record.process.0, json.as_slice())?;
                }
                Change::Delete(process) => {
                    if let Some(removed) = table.remove(process.0)? {
                        let record: Record = serde_json::from_slice(removed.value())
                            .map_err(|error| redb::Error::Io(error.into()))?;
                        floor = record.claim.epoch.0.max(floor);
                    }
                }
            }
        }
        let mut meta = write.open_table(META)?;
        let known = meta.get(FLOOR)?.map_or(0, |floor| floor.value());
        if floor > known {
            meta.insert(FLOOR, floor)?;
        }
    }
    Ok(write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use wire::directory::Claim;
    use wire::{ImageId, NodeId, ProcessId};

    fn open_with(
        path: &Path,
        stored: impl Fn(u64, Result<(), String>) + Send + 'static,
    ) -> Result<(DirectoryStore, Vec<Record>, Epoch), StoreError> {
        DirectoryStore::open(path, stored, |reason| panic!("{reason}"))
    }

    fn record(id: u64, epoch: u64) -> Record {
        Record {
            process: ProcessId(id),
            name: format!("p{id}"),
            image: ImageId([7; 32]),
            claim: Claim {
                owner: NodeId([3; 32]),
                epoch: Epoch(epoch),
                attempt: 1,
            },
        }
    }

    #[test]
    fn what_was_answered_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("directory.redb");
        let (tx, rx) = channel();
        let (store, records, floor) = open_with(&path, move |ticket, result| {
            tx.send((ticket, result)).unwrap()
        })
        .unwrap();
        assert!(records.is_empty());
        assert_eq!(floor, Epoch(0));
        store.store(1, Change::Put(record(1, 1)));
        store.store(2, Change::Put(record(2, 1)));
        store.store(3, Change::Put(record(1, 2)));
        store.store(4, Change::Delete(ProcessId(2)));
        store.store(5, Change::Put(record(3, 9)));
        store.store(6, Change::Delete(ProcessId(3)));
        for ticket in 1..=6 {
            assert_eq!(rx.recv().unwrap(), (ticket, Ok(())));
        }
        drop(store);
        let (_store, records, floor) = open_with(&path, |_, _| {}).unwrap();
        assert_eq!(records, [record(1, 2)]);
        assert_eq!(floor, Epoch(9));
    }

    #[test]
    fn a_store_of_a_later_release_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("directory.redb");
        drop(open_with(&path, |_, _| {}).unwrap());
        let database = Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("format", 9).unwrap();
        write.commit().unwrap();
        drop(database);
        let error = open_with(&path, |_, _| {}).unwrap_err();
        assert!(
            matches!(error, StoreError::Newer { found: 9, .. }),
            "{error}"
        );
    }

    #[test]
    fn garbage_in_place_of_the_store_is_named_and_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("directory.redb");
        std::fs::write(&path, b"not a database at all").unwrap();
        let error = open_with(&path, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("directory.redb"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a database at all");
    }
}
