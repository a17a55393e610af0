//! What there is in the fleet: nodes, processes, the ticket.

use super::extract::{Named, Params};
use super::resolve::records;
use super::{Answer, Context, Refusal, RemoveQuery, forward, is_set, json};
use crate::accounts;
use crate::core::Core;
use crate::fleet::FleetView;
use crate::loader::{Unloadable, blocking};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use futures_util::future::join_all;
use node::event::Event;
use overlay::membership::Health;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use wire::api::{
    NodeAccounts, NodeInfo, NodeState, ProcessAccounts, ProcessInfo, ProcessState, Ticket, Version,
};
use wire::control::Member;
use wire::directory::Record;
use wire::{NodeId, ProcessId};

/// How long another node may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the ticket may take.
const TICKET: Duration = Duration::from_secs(2);
/// Says what is missing in a list.
pub const INCOMPLETE: &str = "limosa-incomplete";

/// The nodes other than this that may answer.
fn reachable(core: &Core) -> Vec<NodeId> {
    let fleet = core.fleet.borrow();
    let alive = |node: &NodeId| fleet.health(*node) != Health::Dead;
    fleet
        .others()
        .map(|member| member.node)
        .filter(alive)
        .collect()
}

/// Those that are taken to be dead.
fn dead(core: &Core) -> Vec<node::Named> {
    let fleet = core.fleet.borrow();
    let others = fleet.others().map(|member| member.node);
    let dead = others.filter(|node| fleet.health(*node) == Health::Dead);
    dead.map(|node| fleet.named(node)).collect()
}

/// `GET /v1/nodes`
pub async fn nodes(State(context): State<Context>) -> Answer {
    let core = &context.core;
    let versions = join_all(reachable(core).into_iter().map(|node| async move {
        let version = forward::get::<Version>(core, node, "/v1/version", PATIENCE).await;
        (node, version.map(|version| version.version))
    }));
    let (versions, records) = tokio::join!(versions, timeout(PATIENCE, records(core)));
    let records = records.ok().and_then(Result::ok);
    let versions: HashMap<NodeId, _> = versions.into_iter().collect();
    let mut owned: HashMap<NodeId, u64> = HashMap::new();
    let mut missing = Vec::new();
    if records.is_none() {
        missing.push(format!(
            "{} does not answer: how many processes each node has is not known",
            directory(core)
        ));
    }
    for record in records.iter().flatten() {
        *owned.entry(record.claim.owner).or_default() += 1;
    }
    let fleet = core.fleet.borrow().clone();
    let infos: Vec<NodeInfo> = fleet
        .members
        .values()
        .map(|member| {
            let version = match versions.get(&member.node) {
                _ if member.node == core.me() => env!("CARGO_PKG_VERSION").to_owned(),
                Some(Ok(version)) => version.clone(),
                _ => String::new(),
            };
            let processes = owned.get(&member.node).copied().unwrap_or_default();
            info(&fleet, member, processes, version)
        })
        .collect();
    list(&infos, &missing)
}

fn info(fleet: &FleetView, member: &Member, processes: u64, version: String) -> NodeInfo {
    NodeInfo {
        id: member.node,
        name: member.name.clone(),
        address: member.address.clone(),
        state: match fleet.health(member.node) {
            Health::Alive => NodeState::Alive,
            Health::Suspect => NodeState::Suspect,
            Health::Dead => NodeState::Dead,
        },
        directory: member.node == fleet.directory,
        this: member.node == fleet.me.node,
        processes,
        version,
    }
}

/// `DELETE /v1/nodes/{node}`: done by the directory's node, which knows who is a member.
pub async fn forget(
    State(context): State<Context>,
    Named(node): Named,
    Params(query): Params<RemoveQuery>,
) -> Answer {
    let core = &context.core;
    let force = is_set(query.force);
    let fleet = core.fleet.borrow().clone();
    let node = fleet.find(&node)?;
    if fleet.directory != core.me() {
        if context.forwarded() {
            return Err(Refusal::not_here());
        }
        let path = format!("/v1/nodes/{node}?force={}", u8::from(force));
        let none = HeaderMap::new();
        let asked = forward::send(
            core,
            fleet.directory,
            Method::DELETE,
            &path,
            none,
            Body::empty(),
        );
        return forward::relay(asked.await?).await;
    }
    let mut owned = 0;
    if force && fleet.health(node) == Health::Dead {
        for record in records(core).await? {
            if record.claim.owner == node {
                owned += 1;
                let process = record.process;
                core.node
                    .command(move |token| Event::Remove { token, process })
                    .await?;
            }
        }
    }
    core.node
        .command(move |token| Event::ForgetNode { token, node })
        .await?;
    let kept = core.clone();
    // Or it would be a member again after a crash.
    let written = blocking(move || {
        let written = kept.write_fleet_now();
        written.map_err(|error| Unloadable::Store(error.to_string()))
    });
    written.await.map_err(Refusal::internal)?;
    let member = fleet.members.get(&node);
    let member = member.ok_or_else(|| Refusal::internal("it was forgotten twice"))?;
    json(StatusCode::OK, &info(&fleet, member, owned, String::new()))
}

/// The directory's node, for people.
fn directory(core: &Core) -> String {
    let fleet = core.fleet.borrow();
    format!("the directory's node {}", fleet.named(fleet.directory))
}

/// A list; what is missing in it is said in a header, so that the body stays an array.
fn list(items: &impl serde::Serialize, missing: &[String]) -> Answer {
    let mut response = json(StatusCode::OK, items)?;
    if !missing.is_empty()
        && let Ok(value) = HeaderValue::from_str(&missing.join("; "))
    {
        response.headers_mut().insert(INCOMPLETE, value);
    }
    Ok(response)
}

/// `GET /v1/nodes/{node}/accounts`
pub async fn accounts(State(context): State<Context>, Named(reference): Named) -> Answer {
    let core = &context.core;
    let node = core.fleet.borrow().find(&reference)?;
    let me = core.me();
    let accounts = match node == me {
        true => {
            let all = core.processes.all();
            let running = all.iter().filter(|managed| !managed.has_ended()).count();
            let executor = core.processes.executor();
            accounts::of_node(executor, me, core.node_name(me), running as u64)
        }
        false if context.forwarded() => return Err(Refusal::not_here()),
        false => {
            let path = format!("/v1/nodes/{node}/accounts");
            forward::get::<NodeAccounts>(core, node, &path, PATIENCE).await?
        }
    };
    json(StatusCode::OK, &accounts)
}

/// `GET /v1/ticket`: made by the directory's node, which admits.
pub async fn ticket(State(context): State<Context>) -> Answer {
    let core = &context.core;
    let (directory, address) = {
        let fleet = core.fleet.borrow();
        (fleet.directory, fleet.me.address.clone())
    };
    let ticket = match core.secret {
        Some(secret) => {
            let ticket = wire::ticket::Ticket::new(core.me(), vec![address], secret)
                .map_err(Refusal::internal)?;
            Ticket {
                ticket: ticket.to_string(),
            }
        }
        None if context.forwarded() => return Err(Refusal::not_here()),
        None => forward::get(core, directory, "/v1/ticket", TICKET).await?,
    };
    json(StatusCode::OK, &ticket)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    local: Option<u8>,
}

/// `GET /v1/processes`
pub async fn processes(State(context): State<Context>, Params(query): Params<ListQuery>) -> Answer {
    let core = &context.core;
    let mut here = listed_here(core);
    if is_set(query.local) || context.forwarded() {
        here.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        return json(StatusCode::OK, &here);
    }
    let records = timeout(PATIENCE, records(core));
    let (elsewhere, records) = tokio::join!(listed_elsewhere(core), records);
    here.extend(elsewhere.processes);
    let mut incomplete = Vec::new();
    let records =
        match records {
            Ok(Ok(records)) => {
                // What is on a node that does not answer is listed by its record.
                let silent = elsewhere.silent.iter();
                incomplete.extend(silent.map(|node| {
                    format!("{node} does not answer: of its processes little is known")
                }));
                records
            }
            _ => {
                incomplete.push(format!(
                    "{} does not answer: processes on nodes that do not answer are not listed",
                    directory(core)
                ));
                Vec::new()
            }
        };
    incomplete.extend(
        dead(core).iter().map(|node| {
            format!("{node} is dead: what ended there is listed again when it is back")
        }),
    );
    let infos = combine(here, &records, |record| {
        let fleet = core.fleet.borrow();
        let owner = record.claim.owner;
        let dead = fleet.health(owner) == Health::Dead;
        missing(record, &fleet.named(owner), dead)
    });
    list(&infos, &incomplete)
}

fn listed_here(core: &Core) -> Vec<ProcessInfo> {
    let all = core.processes.all();
    all.iter().map(|managed| core.info(managed)).collect()
}

/// What the other nodes list.
pub struct Elsewhere {
    pub processes: Vec<ProcessInfo>,
    /// Those that are not taken to be dead, and have not answered.
    silent: Vec<node::Named>,
}

/// Asks the other nodes for what they list.
pub async fn listed_elsewhere(core: &Arc<Core>) -> Elsewhere {
    let lists = join_all(reachable(core).into_iter().map(|node| async move {
        let path = "/v1/processes?local=1";
        let list = forward::get::<Vec<ProcessInfo>>(core, node, path, PATIENCE).await;
        (node, list)
    }))
    .await;
    let mut elsewhere = Elsewhere {
        processes: Vec::new(),
        silent: Vec::new(),
    };
    for (node, list) in lists {
        match list {
            Ok(list) => elsewhere.processes.extend(list),
            Err(refusal) => {
                tracing::debug!(node = %node.short(), reason = refusal.error.message, "no list");
                elsewhere.silent.push(core.fleet.borrow().named(node));
            }
        }
    }
    elsewhere
}

/// One entry per process: of several, as while it moves, the latest owner's.
fn combine(
    listed: Vec<ProcessInfo>,
    records: &[Record],
    missing: impl Fn(&Record) -> ProcessInfo,
) -> Vec<ProcessInfo> {
    let mut by_id: BTreeMap<ProcessId, ProcessInfo> = BTreeMap::new();
    for info in listed {
        let known = by_id.get(&info.id);
        if known.is_none_or(|known| known.epoch < info.epoch) {
            by_id.insert(info.id, info);
        }
    }
    for record in records {
        by_id
            .entry(record.process)
            .or_insert_with(|| missing(record));
    }
    let mut infos: Vec<ProcessInfo> = by_id.into_values().collect();
    infos.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    infos
}

/// A process that has a record and that no node lists: lost with its node, or on its way.
pub fn missing(record: &Record, node: &node::Named, lost: bool) -> ProcessInfo {
    ProcessInfo {
        id: record.process,
        name: record.name.clone(),
        image: record.image,
        node: record.claim.owner,
        node_name: node.name.clone().unwrap_or_else(|| node.node.short()),
        epoch: record.claim.epoch,
        state: if lost {
            ProcessState::Lost
        } else {
            ProcessState::Moving
        },
        exit_code: None,
        reason: lost.then(|| format!("its node {node} does not answer")),
        age_seconds: 0,
        memory_bytes: 0,
        freezes: 0,
        moves: 0,
        listeners: Vec::new(),
        connections: 0,
        folded: false,
        moving: None,
        volumes: Vec::new(),
        allow_net: Vec::new(),
        outgoing: Vec::new(),
        accounts: ProcessAccounts::default(),
    }
}
