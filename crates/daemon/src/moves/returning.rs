//! Processes that may come back: what is kept of their files, and until when.

use crate::core::Core;
use crate::store::kept::{KEPT_FOR, Kept, MAX_KEPT_BYTES};
use node::event::{Event, Failure};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use wire::ProcessId;
use wire::snapshot::{Chunk, Digest, Hints};

/// How often it is looked whether processes have ended elsewhere, if none leaves.
const LOOKS: Duration = Duration::from_secs(600);
/// The pause between two looks: when many leave at once, not each is a reason to ask for all.
const PAUSE: Duration = Duration::from_secs(1);

/// What is kept of processes that have left.
pub struct Returning {
    kept: Kept,
    changed: Notify,
}

/// What is here of one process's files, by what it is.
pub type Chunks = HashMap<Digest, Chunk>;

/// As it is told to the source of a move.
pub fn hints(chunks: &Chunks) -> Hints {
    chunks.keys().collect()
}

impl Returning {
    /// With what was kept by an earlier life of the node.
    pub fn new(kept: Kept) -> Arc<Returning> {
        Arc::new(Returning {
            kept,
            changed: Notify::new(),
        })
    }

    /// A process has left: keeps what it had in its files.
    pub fn left(self: &Arc<Self>, process: ProcessId, chunks: Vec<Chunk>) {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            this.kept.keep(process, &chunks);
            if !chunks.is_empty() {
                this.changed.notify_one();
            }
        });
    }

    /// A process has come, or has ended: what was kept of it is of no use.
    pub fn forget(self: &Arc<Self>, process: ProcessId) {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.kept.forget(process));
    }

    /// What is here of a process's files. Reads and hashes all of it.
    pub fn find(&self, process: ProcessId) -> Chunks {
        let chunks = self.kept.find(process).into_iter();
        chunks.map(|chunk| (*chunk.digest(), chunk)).collect()
    }
}

/// Removes what is of no use any more, as long as the node runs.
pub async fn tend(core: Arc<Core>) {
    let returning = core.returning.clone();
    let mut looks = interval(LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = returning.changed.notified() => {}
        }
        let this = returning.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let oldest = SystemTime::now().checked_sub(KEPT_FOR);
            let oldest = oldest.unwrap_or(SystemTime::UNIX_EPOCH);
            this.kept.shrink(MAX_KEPT_BYTES, oldest);
            this.kept.processes()
        });
        for process in listed.await.unwrap_or_default() {
            let known = core
                .node
                .command(move |token| Event::Locate { token, process });
            // A directory that does not answer says nothing of it.
            if let Err(Failure::UnknownProcess(_)) = known.await {
                returning.forget(process);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
