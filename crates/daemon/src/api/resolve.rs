//! Which process a text means, and where it is.

use super::{Context, Refusal};
use crate::core::Core;
use crate::processes::managed::Managed;
use node::event::{Event, Failure, Reply};
use std::sync::Arc;
use wire::api::ProcessInfo;
use wire::directory::Record;
use wire::{NodeId, ProcessId};

/// Where a process is.
#[derive(Debug)]
pub enum Found {
    /// On this node.
    Here(Arc<Managed>),
    /// On another one.
    There(NodeId, ProcessId),
    /// The directory knows it, but its node is gone.
    Lost(Box<Record>),
}

/// Whether the directory's node is taken to be dead.
pub fn without_directory(core: &Core) -> bool {
    let fleet = core.fleet.borrow();
    fleet.health(fleet.directory) == overlay::membership::Health::Dead
}

/// All records of the directory.
pub async fn records(core: &Core) -> Result<Vec<Record>, Refusal> {
    if without_directory(core) {
        // It would be waited for; whoever needs it may ask again.
        return Err(Failure::DirectoryUnreachable.into());
    }
    match core.node.command(|token| Event::List { token }).await? {
        Reply::Records(records) => Ok(records),
        reply => Err(Refusal::internal(format!("unexpected reply {reply:?}"))),
    }
}

/// Something that can be referred to.
struct Candidate<T> {
    id: ProcessId,
    name: String,
    what: T,
}

/// The one that is meant: by whole id, by name, by the beginning of its id.
fn choose<T>(reference: &str, candidates: Vec<Candidate<T>>) -> Result<Option<T>, Refusal> {
    let id = reference.parse::<ProcessId>().ok();
    let (mut by_name, mut by_prefix) = (None, Vec::new());
    for candidate in candidates {
        if Some(candidate.id) == id {
            return Ok(Some(candidate.what));
        }
        if candidate.name == reference {
            by_name.get_or_insert(candidate.what);
        } else if !reference.is_empty() && candidate.id.to_string().starts_with(reference) {
            by_prefix.push((candidate.id, candidate.what));
        }
    }
    if by_name.is_some() {
        return Ok(by_name);
    }
    by_prefix.dedup_by_key(|(id, _)| *id);
    match by_prefix.len() {
        0 | 1 => Ok(by_prefix.pop().map(|(_, what)| what)),
        count => Err(Refusal::bad_request(format!(
            "`{reference}` is the beginning of {count} process ids; give more digits"
        ))),
    }
}

/// Finds a process. A forwarded request names it by id, and it must be here.
pub async fn resolve(context: &Context, reference: &str) -> Result<Found, Refusal> {
    let core = &context.core;
    let mut here = core.processes.all();
    if context.forwarded() {
        let id = reference.parse().map_err(Refusal::bad_request)?;
        let managed = core.processes.get(id);
        return managed.map(Found::Here).ok_or_else(Refusal::not_here);
    }
    // What runs goes before what has ended, where they share a name.
    here.sort_by_key(|managed| (managed.has_ended(), managed.id));
    let exact = |managed: &&Arc<Managed>| {
        !managed.has_ended() && (managed.name == reference || managed.id.to_string() == reference)
    };
    if let Some(managed) = here.iter().find(exact) {
        return Ok(Found::Here(managed.clone()));
    }
    let records = records(core).await;
    let candidates = here.iter().map(|managed| Candidate {
        id: managed.id,
        name: managed.name.clone(),
        what: Found::Here(managed.clone()),
    });
    let mut candidates: Vec<Candidate<Found>> = candidates.collect();
    for record in records.iter().flatten() {
        if core.processes.running(record.process).is_some() {
            continue;
        }
        let owner = record.claim.owner;
        let dead = core.fleet.borrow().health(owner) == overlay::membership::Health::Dead;
        let ended_here = core.processes.get(record.process);
        let what = match ended_here.filter(|_| owner == core.me()) {
            // Its clients are still being given what it wrote.
            Some(managed) => Found::Here(managed),
            None if dead => Found::Lost(Box::new(record.clone())),
            None => Found::There(owner, record.process),
        };
        let candidate = Candidate {
            id: record.process,
            name: record.name.clone(),
            what,
        };
        // Before what has ended here and had the same name.
        candidates.insert(0, candidate);
    }
    if let Some(found) = choose(reference, candidates)? {
        return Ok(found);
    }
    // Without a record it can only have ended, on another node; or there is no directory now.
    let elsewhere = super::fleet::listed_elsewhere(core).await;
    let candidates = elsewhere
        .processes
        .into_iter()
        .map(|info: ProcessInfo| Candidate {
            id: info.id,
            name: info.name,
            what: Found::There(info.node, info.id),
        });
    match choose(reference, candidates.collect())? {
        Some(found) => Ok(found),
        None => {
            records?;
            Err(Refusal::unknown_process(reference))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate<u32>> {
        let candidate = |id, name: &str, what| Candidate {
            id: ProcessId(id),
            name: name.to_owned(),
            what,
        };
        vec![
            candidate(0xaa00_0000_0000_0001, "web", 1),
            candidate(0xab00_0000_0000_0002, "db", 2),
            candidate(0x1000_0000_0000_0003, "ab", 3),
        ]
    }

    #[test]
    fn a_process_is_meant_by_id_name_or_beginning_of_its_id() {
        let meant = |reference| choose(reference, candidates()).unwrap();
        assert_eq!(meant("aa00000000000001"), Some(1));
        assert_eq!(meant("db"), Some(2));
        assert_eq!(meant("10"), Some(3));
        // A name goes before the beginning of an id.
        assert_eq!(meant("ab"), Some(3));
        assert_eq!(meant("nothing"), None);
        assert_eq!(meant(""), None);
    }

    #[test]
    fn the_beginning_of_two_ids_means_neither() {
        let refusal = choose("a", candidates()).unwrap_err();
        assert_eq!(refusal.error.code, "bad_request");
    }
}
