//! Processes of this node.

pub mod console;
pub mod ends;
pub mod idle;
pub mod log;
pub mod managed;
pub mod sealed;
mod seeking;
pub mod sockets;
pub mod terminal;
pub mod tree;
pub mod volumes;

use crate::executor::Executor;
use crate::node_loop::{Input, LoopHandle};
use crate::switch::Switch;
use ends::EndRecord;
use log::Log;
use managed::{End, KILLED, Launch, Managed, Origin, Reports, Status};
use node::event::Event;
use sealed::Sealed;
use sockets::Sockets;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use wire::directory::Record;
use wire::{ArtefactId, Epoch, MoveId, NodeId, ProcessId};

/// Ended processes that stay listed; the oldest go first.
const MAX_ENDED: usize = 1024;
/// Bytes of memory for their logs; the oldest go first, but never the last that has ended.
const MAX_ENDED_BYTES: usize = 128 << 20;

/// Whether a process could be made.
pub type Made = oneshot::Receiver<Result<(), String>>;

/// All processes of this node: those that run, and those that have ended and are still listed.
pub struct Processes {
    this: Weak<Processes>,
    executor: Executor,
    node: LoopHandle,
    runtime: Handle,
    logs: PathBuf,
    most: usize,
    table: Mutex<Table>,
    /// Held while files of ended processes are written and removed, so that what was removed is not
    /// written again.
    files: Mutex<()>,
    /// Ended processes that the node has not been told of.
    unreported: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    listed: HashMap<ProcessId, Arc<Managed>>,
    /// Ids under which a request or a move is making a process.
    reserved: HashSet<ProcessId>,
    /// Made ready by such a request, waiting for the node's leave.
    launching: HashMap<ProcessId, (Launch, oneshot::Sender<Result<(), String>>)>,
    ended: u64,
    /// When each ended, as a count.
    ends: HashMap<ProcessId, u64>,
}

impl Table {
    /// Whether one more may run, or be made to: at most `most` do.
    fn room(&self, most: usize) -> Result<(), String> {
        let runs = |id: &ProcessId| self.listed.contains_key(id) && !self.ends.contains_key(id);
        let running = self.listed.len().saturating_sub(self.ends.len());
        let making = self.reserved.iter().filter(|id| !runs(id)).count();
        let count = running + making;
        if count >= most {
            return Err(format!(
                "the node runs {count} processes already, its limit; end some, or choose another node"
            ));
        }
        Ok(())
    }

    /// Lists a process that has ended.
    fn list_ended(&mut self, managed: Arc<Managed>) {
        self.ended += 1;
        self.ends.insert(managed.id, self.ended);
        self.listed.insert(managed.id, managed);
    }

    /// Takes the processes that ended first off the list, if too many have ended or their logs are
    /// too long.
    fn drop_oldest(&mut self, most: usize, most_bytes: usize) -> Vec<ProcessId> {
        let bytes_of = |managed: &Arc<Managed>| managed.log.memory_bytes();
        let ended = self.ends.keys().filter_map(|id| self.listed.get(id));
        let mut bytes: usize = ended.map(bytes_of).sum();
        let mut dropped = Vec::new();
        while self.ends.len() > most || (bytes > most_bytes && self.ends.len() > 1) {
            let oldest = self.ends.iter().min_by_key(|(_, ended)| **ended);
            let Some((oldest, _)) = oldest.map(|(id, ended)| (*id, *ended)) else {
                break;
            };
            self.ends.remove(&oldest);
            let listed = self.listed.remove(&oldest);
            bytes = bytes.saturating_sub(listed.as_ref().map_or(0, bytes_of));
            dropped.push(oldest);
        }
        dropped
    }
}

/// What was written down of processes that have ended.
fn remembered(switch: &Arc<Switch>, logs: &Path) -> Table {
    let mut table = Table::default();
    for (record, frames) in ends::read_all(logs) {
        let id = record.id;
        let log = Log::ended(&frames, record.log_end);
        let sockets = Sockets::none(switch, id, record.epoch);
        table.list_ended(Managed::remembered(record, log, sockets));
    }
    for dropped in table.drop_oldest(MAX_ENDED, MAX_ENDED_BYTES) {
        let _ = std::fs::remove_file(ends::path(logs, dropped));
    }
    table
}

/// When a process began to write to its log here, or now if that is not known; nanoseconds since
/// 1970.
fn born(log: &Path) -> u64 {
    let metadata = std::fs::metadata(log);
    let began = metadata.and_then(|metadata| metadata.created().or_else(|_| metadata.modified()));
    let since = began
        .unwrap_or_else(|_| SystemTime::now())
        .duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

impl Processes {
    /// Those that have ended before the node was started. At most `most` may run. Must be called
    /// within a tokio runtime.
    pub fn new(
        executor: Executor,
        node: LoopHandle,
        switch: &Arc<Switch>,
        logs: &Path,
        most: usize,
    ) -> Arc<Processes> {
        let table = remembered(switch, logs);
        log::prune(logs, |path| {
            if ends::is_record(path) {
                return true;
            }
            let id = path
                .file_name()
                .and_then(|name| name.to_str()?.split('.').next());
            let id = id.and_then(|id| id.parse::<ProcessId>().ok());
            id.is_some_and(|id| table.listed.contains_key(&id))
        });
        Arc::new_cyclic(|this| Processes {
            this: this.clone(),
            executor,
            node,
            runtime: Handle::current(),
            logs: logs.to_owned(),
            most,
            table: Mutex::new(table),
            files: Mutex::default(),
            unreported: watch::Sender::new(0),
        })
    }

    /// What runs them.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a process's log file is.
    pub fn log_path(&self, process: ProcessId) -> PathBuf {
        self.logs.join(format!("{process}.log"))
    }

    /// All that are listed.
    pub fn all(&self) -> Vec<Arc<Managed>> {
        self.table().listed.values().cloned().collect()
    }

    /// One that is listed.
    pub fn get(&self, process: ProcessId) -> Option<Arc<Managed>> {
        self.table().listed.get(&process).cloned()
    }

    /// One that is here and has not ended.
    pub fn running(&self, process: ProcessId) -> Option<Arc<Managed>> {
        let managed = self.get(process)?;
        let ended = matches!(*managed.status().borrow(), Status::Ended(_));
        (!ended).then_some(managed)
    }

    /// Whether one more may run here.
    pub fn room(&self) -> Result<(), String> {
        self.table().room(self.most)
    }

    /// Keeps an id, and room, for one request or move, before it opens anything under that id.
    pub fn reserve(&self, process: ProcessId) -> Result<Reserved, NoPlace> {
        let ending = || NoPlace::Full("the node is shutting down".to_owned());
        let processes = self.this.upgrade().ok_or_else(ending)?;
        let mut table = self.table();
        let listed = table.listed.get(&process);
        let runs = listed.is_some_and(|managed| !managed.has_ended());
        if runs || table.reserved.contains(&process) {
            return Err(NoPlace::Taken);
        }
        table.room(self.most).map_err(NoPlace::Full)?;
        table.reserved.insert(process);
        drop(table);
        Ok(Reserved { processes, process })
    }

    /// Starts what was made ready.
    pub fn run(&self, process: ProcessId, epoch: Epoch) {
        let launch = self.table().launching.remove(&process);
        let (Some((launch, created)), Some(this)) = (launch, self.this.upgrade()) else {
            // Nobody made it ready: there is nothing that could run under this record.
            self.node.event(Event::Exited(process));
            return;
        };
        let managed = Managed::spawn(&self.executor, launch, this, created);
        self.adopt(managed, epoch);
    }

    /// Takes over a process that stood by: it is this node's now, under `epoch`, and runs.
    pub fn adopt(&self, managed: Arc<Managed>, epoch: Epoch) {
        {
            // Before it runs: it may end at once, and what ends is looked for here.
            let mut table = self.table();
            let ended_before = table.ends.remove(&managed.id).is_some();
            table.listed.insert(managed.id, managed.clone());
            drop(table);
            if ended_before {
                self.remove_end(managed.id);
            }
        }
        managed.sockets.resume(epoch);
        managed.go_on(epoch);
    }

    /// Removes what was written down of an earlier end, unless it has ended again. Not here: the
    /// process waits to run.
    fn remove_end(&self, process: ProcessId) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        self.runtime.spawn_blocking(move || {
            let _files = this.files.lock().unwrap_or_else(PoisonError::into_inner);
            if !this.table().ends.contains_key(&process) {
                let _ = std::fs::remove_file(ends::path(&this.logs, process));
            }
        });
    }

    /// Stops listing an ended process.
    pub fn forget(&self, process: ProcessId) {
        let mut table = self.table();
        let listed = table.listed.get(&process);
        if listed.is_some_and(|managed| !managed.has_ended()) {
            return;
        }
        table.listed.remove(&process);
        table.ends.remove(&process);
        drop(table);
        self.remove_files(process);
    }

    /// Removes what is on disk of a process that is not listed any more. One that is being made under
    /// its id has the log open already.
    fn remove_files(&self, process: ProcessId) {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Held to the end: whoever makes one comes after that.
        let table = self.table();
        let log = self.log_path(process);
        if !table.ends.contains_key(&process) {
            let _ = std::fs::remove_file(ends::path(&self.logs, process));
        }
        if !table.reserved.contains(&process) && !table.listed.contains_key(&process) {
            for path in [log::aside(&log), log] {
                // Most have no older part.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Writes down that a process has ended, unless it is not listed any more.
    fn remember(&self, managed: &Arc<Managed>) {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = self.get(managed.id);
        if !listed.is_some_and(|listed| Arc::ptr_eq(&listed, managed)) {
            return;
        }
        let Some(record) = managed.record() else {
            return;
        };
        if let Err(error) = ends::write(&self.logs, &record, &managed.log.export().0) {
            tracing::warn!(process = %managed.id, %error, "an ended process will be forgotten when the node ends");
        }
    }

    /// The directory says that an earlier life of this node had a process: it went with that. It is
    /// listed as one that has ended, before its record goes, so that somebody who looks for it finds
    /// it at any time. Reads and writes small files.
    pub fn lost(&self, switch: &Arc<Switch>, record: &Record, node: &str) {
        let id = record.process;
        if self.get(id).is_some() {
            // Said before; or it ended, and only its record was left.
            return;
        }
        tracing::warn!(process = %id, name = record.name, "a process was lost in a crash of this node");
        let path = self.log_path(id);
        let log = Log::left_in(&path);
        let end = EndRecord {
            id,
            name: record.name.clone(),
            image: record.image,
            // What else is not known is as of one that never ran.
            artefact: ArtefactId::default(),
            epoch: record.claim.epoch,
            born_ns: born(&path),
            moves: 0,
            freezes: 0,
            memory_bytes: 0,
            code: None,
            reason: Some(format!("lost in a crash of node {node}")),
            log_end: *log.follow().borrow(),
        };
        let sockets = Sockets::none(switch, id, end.epoch);
        let managed = Managed::remembered(end, log, sockets);
        let dropped = {
            let mut table = self.table();
            table.list_ended(managed.clone());
            table.drop_oldest(MAX_ENDED, MAX_ENDED_BYTES)
        };
        self.remember(&managed);
        for dropped in dropped {
            self.remove_files(dropped);
        }
    }

    /// A move is off; the process runs on.
    pub fn unfreeze(&self, process: ProcessId) {
        if let Some(managed) = self.running(process) {
            managed.unfreeze();
        }
    }

    /// The process runs elsewhere now.
    pub fn moved(&self, process: ProcessId, owner: NodeId, epoch: Epoch) {
        if let Some(managed) = self.unlist(process) {
            managed.sockets.leave(epoch, Some(owner));
            managed.drop_silently(Some(owner));
            // The log goes along.
            managed.log.remove_files();
        }
    }

    fn unlist(&self, process: ProcessId) -> Option<Arc<Managed>> {
        let mut table = self.table();
        let listed = table.listed.get(&process);
        if listed.is_some_and(|managed| managed.has_ended()) {
            return None;
        }
        table.listed.remove(&process)
    }

    /// A move failed after it was granted: the process runs on here, under a later epoch.
    pub fn take_back(&self, process: ProcessId, epoch: Epoch) {
        let result = match self.running(process) {
            Some(managed) if managed.unseal() => {
                managed.sockets.take_back(epoch);
                managed.go_on(epoch);
                Ok(())
            }
            _ => Err("the frozen state is gone".to_owned()),
        };
        self.node.event(Event::TakenBack { process, result });
    }

    /// The process is not this node's, says the directory: it ends here without a word to anyone.
    pub fn fence(&self, process: ProcessId) {
        if let Some(managed) = self.unlist(process) {
            tracing::warn!(%process, "the directory says that a process is another node's; dropped");
            managed.sockets.leave(managed.epoch(), None);
            managed.kill(End::killed(KILLED, "the directory gave it to another node"));
            managed.drop_silently(None);
        }
    }

    /// A step of a move.
    pub fn progress(&self, process: ProcessId, phase: &str) {
        if let Some(managed) = self.running(process) {
            managed.set_moving(phase != "over");
            managed.enter_phase(phase);
        }
    }

    /// Ends a process here, as soon as it can be: a move that nothing was decided about yet is called
    /// off. If it runs elsewhere after all, it is not ended.
    pub fn kill(&self, managed: &Managed, end: End) {
        let reason = end.reason.clone().unwrap_or_default();
        managed.kill(end);
        let process = managed.id;
        let reason = format!("the process was ended: {reason}");
        self.node.event(Event::Cancel { process, reason });
    }

    /// Waits until the node has been told of all that have ended.
    pub async fn reported(&self) {
        // Cannot fail: the sender is here.
        let _ = self
            .unreported
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }

    /// Kills all, without a word: the node goes down and its processes with it.
    pub fn kill_all(&self) {
        for managed in self.all() {
            self.kill(&managed, End::killed(KILLED, "its node was shut down"));
        }
    }
}

/// Why no process can be made here under an id.
#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    /// One runs here, or is being made.
    #[error("the process is on this node already")]
    Taken,
    /// There are too many.
    #[error("{0}")]
    Full(String),
}

/// An id under which one request or move makes a process, and no other until this is dropped.
pub struct Reserved {
    processes: Arc<Processes>,
    process: ProcessId,
}

impl Reserved {
    /// The request has made the process ready; [`Processes::run`] starts it.
    pub fn prepare(&self, launch: Launch) -> Made {
        let (created, made) = oneshot::channel();
        let mut table = self.processes.table();
        table.launching.insert(self.process, (launch, created));
        made
    }

    /// The node did not give leave. Returns what the process would have begun with.
    pub fn withdraw(&self) -> Option<Origin> {
        let launch = self.processes.table().launching.remove(&self.process);
        launch.map(|(launch, _)| {
            launch.sockets.withdraw();
            launch.log.withdraw_files();
            launch.origin
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.processes.table().reserved.remove(&self.process);
    }
}

impl Reports for Processes {
    fn frozen(&self, _process: &Arc<Managed>, id: MoveId, result: Result<Box<Sealed>, String>) {
        self.node.tell(Input::Frozen { id, result });
    }

    fn ended(&self, process: &Arc<Managed>) {
        let mut dropped = Vec::new();
        let mut table = self.table();
        let listed = table.listed.get(&process.id);
        if listed.is_some_and(|listed| Arc::ptr_eq(listed, process)) {
            table.ended += 1;
            let ended = table.ended;
            table.ends.insert(process.id, ended);
            dropped = table.drop_oldest(MAX_ENDED, MAX_ENDED_BYTES);
        }
        drop(table);
        // The record goes only when the clients have what the process wrote: anchors break the
        // connections of a process without record.
        let (node, process) = (self.node.clone(), process.clone());
        let this = self.this.clone();
        self.unreported.send_modify(|count| *count += 1);
        self.runtime.spawn(async move {
            let written = {
                let (this, process) = (this.clone(), process.clone());
                tokio::task::spawn_blocking(move || {
                    let Some(this) = this.upgrade() else { return };
                    this.remember(&process);
                    for dropped in dropped {
                        this.remove_files(dropped);
                    }
                })
            };
            process.sockets.drained().await;
            node.event(Event::Exited(process.id));
            // Fails only with the runtime.
            let _ = written.await;
            if let Some(this) = this.upgrade() {
                this.unreported.send_modify(|count| *count -= 1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_ends_go_when_there_are_many_or_their_logs_are_long() {
        let switch = Switch::new(crate::local::alone().unwrap());
        let mut table = Table::default();
        let end = |table: &mut Table, id: u64, bytes: usize| {
            let log = Log::new(0, None);
            log.append(1, &vec![b'x'; bytes]);
            let managed = managed::tests::ended(&switch, ProcessId(id), log);
            table.ended += 1;
            table.ends.insert(managed.id, table.ended);
            table.listed.insert(managed.id, managed);
        };
        for id in [3, 1, 2] {
            end(&mut table, id, 10_000);
        }
        assert!(table.drop_oldest(3, 1 << 20).is_empty());
        assert_eq!(table.drop_oldest(2, 1 << 20), [ProcessId(3)]);
        end(&mut table, 4, 10_000);
        assert_eq!(table.drop_oldest(9, 15_000), [ProcessId(1), ProcessId(2)]);
        // One that is too long by itself stays until the next has ended.
        assert!(table.drop_oldest(9, 1).is_empty());
        end(&mut table, 5, 0);
        assert_eq!(table.drop_oldest(9, 1), [ProcessId(4)]);
        assert_eq!((table.ends.len(), table.listed.len()), (1, 1));
    }

    #[tokio::test]
    async fn what_is_being_made_counts_among_what_may_run_and_keeps_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::new(crate::local::alone().unwrap());
        let (node, _inputs) = crate::node_loop::channel();
        let executor = Executor::new(crate::executor::Config::default()).unwrap();
        let processes = Processes::new(executor, node, &switch, directory.path(), 2);
        let first = processes.reserve(ProcessId(1)).unwrap();
        assert!(matches!(
            processes.reserve(ProcessId(1)),
            Err(NoPlace::Taken)
        ));
        let second = processes.reserve(ProcessId(2)).unwrap();
        assert!(matches!(
            processes.reserve(ProcessId(3)),
            Err(NoPlace::Full(_))
        ));
        assert!(processes.room().is_err());
        // Its earlier life is forgotten while the next is made.
        let log = processes.log_path(ProcessId(1));
        std::fs::write(&log, b"of both").unwrap();
        processes.forget(ProcessId(1));
        assert!(log.exists());
        drop(first);
        processes.forget(ProcessId(1));
        assert!(!log.exists());
        assert!(processes.reserve(ProcessId(3)).is_ok());
        drop(second);
    }
}
