//! What is true, kept apart from what the nodes believe; and what must hold.
//!
//! 1. At most one host runs a process at any instant, and epochs only grow.
//! 2. A process is never run from an older state than it had, not in a single page of its memory.
//! 3. A process whose owner never crashed never disappears.
//! 4. A client's bytes are neither lost, repeated nor reordered (`traffic`).
//! 5. Every command gets a reply.
//! 6. When the faults end, everything else does: moves, freezes, doubts.

use crate::host::Pages;
use std::collections::BTreeMap;
use wire::{Epoch, ProcessId};

/// What is known of a process that was run at least once.
#[derive(Clone, Debug)]
pub struct Life {
    /// Where and under which epoch it runs or ran last.
    pub host: usize,
    /// The highest epoch under which it ran.
    pub epoch: Epoch,
    /// Steps that it has done, wherever it was.
    pub work: u64,
    /// What is in its pages, wherever it was.
    pub pages: Pages,
    /// It ended by itself, or was removed by command.
    pub ended: bool,
    /// Why it may be gone.
    pub excuse: Option<String>,
}

/// All processes ever run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By id.
    pub lives: BTreeMap<ProcessId, Life>,
}

impl Ledger {
    /// A host begins to run a process, or lets it run on. `elsewhere` is another host that runs it.
    pub fn runs(
        &mut self,
        process: ProcessId,
        host: usize,
        epoch: Epoch,
        work: u64,
        elsewhere: Option<usize>,
    ) -> Result<(), String> {
        if let Some(other) = elsewhere {
            return Err(format!(
                "{process} is run by host {host} under epoch {epoch} while host {other} runs it"
            ));
        }
        let Some(life) = self.lives.get_mut(&process) else {
            let life = Life {
                host,
                epoch,
                work,
                pages: Pages::new(),
                ended: false,
                excuse: None,
            };
            self.lives.insert(process, life);
            return Ok(());
        };
        if life.ended {
            return Err(format!("{process} is run by host {host} after its end"));
        }
        if epoch < life.epoch || (epoch == life.epoch && host != life.host) {
            return Err(format!(
                "{process} is run by host {host} under epoch {epoch}, but host {} had epoch {}",
                life.host, life.epoch
            ));
        }
        if work != life.work {
            return Err(format!(
                "{process} goes on at host {host} from step {work}, but it had done {}",
                life.work
            ));
        }
        life.host = host;
        life.epoch = epoch;
        Ok(())
    }

    /// A process goes on with these pages.
    pub fn has(&self, process: ProcessId, pages: &Pages) -> Result<(), String> {
        let Some(life) = self.lives.get(&process) else {
            return Ok(());
        };
        let mut numbers = life.pages.keys().chain(pages.keys());
        match numbers.find(|number| life.pages.get(number) != pages.get(number)) {
            None => Ok(()),
            Some(number) => Err(format!(
                "{process} goes on with {:?} in page {number}, where it had {:?}",
                pages.get(number),
                life.pages.get(number)
            )),
        }
    }

    /// A process writes a page.
    pub fn writes(&mut self, process: ProcessId, page: usize, value: u64) {
        if let Some(life) = self.lives.get_mut(&process) {
            life.pages.insert(page, value);
        }
    }

    /// A process does one step.
    pub fn works(&mut self, process: ProcessId, work: u64) -> Result<(), String> {
        let Some(life) = self.lives.get_mut(&process) else {
            return Err(format!("{process} works without ever having been run"));
        };
        life.work += 1;
        if life.work != work {
            let expected = life.work;
            return Err(format!("{process} does step {work}, {expected} was due"));
        }
        Ok(())
    }

    /// It may be gone from now on; the first reason counts.
    pub fn excuse(&mut self, process: ProcessId, why: impl FnOnce() -> String) {
        if let Some(life) = self.lives.get_mut(&process) {
            life.excuse.get_or_insert_with(why);
        }
    }

    /// It ended.
    pub fn ends(&mut self, process: ProcessId) {
        if let Some(life) = self.lives.get_mut(&process) {
            life.ended = true;
        }
    }
}
