//! What can be done with one process, wherever it is.
//!
//! The process may move while a request about it is served. Whoever serves it then says so, and
//! the node that was asked looks again.

use super::logs::LogsWanted;
use super::resolve::{Found, resolve, without_directory};
use super::{Answer, Context, Refusal, error, fleet, forward, input, json, start};
use crate::core::Core;
use crate::processes::managed::{End, KILLED, Managed, STOPPED, Status};
use crate::processes::sockets::DRAINING;
use crate::processes::volumes;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::IntoResponse;
use futures_util::future::join_all;
use migrate::Plan;
use migrate::rounds::Round;
use node::event::{Event, Failure, Reply};
use overlay::membership::Health;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::api::{MigrateRequest, MoveReport, RoundReport};
use wire::directory::Record;
use wire::{MoveId, NodeId, ProcessId};

/// How long a process that is between two nodes is looked for.
const LOOKING: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a process may take to freeze for a checkpoint.
const FREEZING: Duration = Duration::from_secs(30);
/// How long a killed process may take to end: it may be sealed, with a decision to wait for.
const ENDING: Duration = Duration::from_secs(20);

/// How long a node that accepts connections for a process may take to hear that it is stopped.
const TELLING: Duration = Duration::from_secs(3);

/// How long the record of a process that is removed may take to go, and its name with it.
const RELEASING: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Inspect,
    Remove {
        force: bool,
    },
    Stop {
        timeout: Duration,
    },
    Kill,
    Wait,
    Logs(LogsWanted),
    /// A piece of standard input; answered when more is wanted.
    Input {
        at: u64,
        bytes: Bytes,
        end: bool,
    },
    /// Whoever stays with it has what it wrote, up to this position of its log.
    Fetched {
        position: u64,
    },
    Checkpoint,
    Migrate {
        to: NodeId,
        plan: Plan,
    },
}

impl Action {
    /// Whether it makes no difference that it is asked for twice.
    fn can_be_repeated(&self) -> bool {
        use Action::{Fetched, Input, Inspect, Wait};
        matches!(self, Inspect | Wait | Input { .. } | Fetched { .. })
    }
}

/// Why something was not done here.
pub enum Obstacle {
    /// The process went elsewhere meanwhile.
    Moved,
    /// It cannot be done.
    Refused(Refusal),
}

impl<T: Into<Refusal>> From<T> for Obstacle {
    fn from(reason: T) -> Obstacle {
        Obstacle::Refused(reason.into())
    }
}

pub type Done = Result<axum::response::Response, Obstacle>;

/// Does it, wherever the process is.
pub async fn act(context: &Context, reference: &str, action: Action) -> Answer {
    let mut reference = reference.to_owned();
    let mut gone_since: Option<Instant> = None;
    loop {
        let missing = match resolve(context, &reference).await? {
            Found::Here(managed) => {
                // From now on this one is meant, whatever gets its name.
                reference = managed.id.to_string();
                match perform(&context.core, &managed, &action).await {
                    Ok(answer) => return Ok(answer),
                    Err(Obstacle::Refused(refusal)) => return Err(refusal),
                    Err(Obstacle::Moved) if context.forwarded() => return Err(Refusal::not_here()),
                    Err(Obstacle::Moved) => None,
                }
            }
            Found::Lost(record) => return with_lost(&context.core, &record, &action).await,
            Found::There(node, id) if node == context.core.me() => {
                // Nobody else could say more: it is being started here, or its end is.
                reference = id.to_string();
                Some(node)
            }
            Found::There(node, id) => {
                reference = id.to_string();
                match ask(&context.core, node, &reference, &action).await {
                    Ok(answer) => return Ok(answer),
                    Err(refusal) if refusal.error.code == error::NOT_HERE => Some(node),
                    // Its node is seen as dead soon, or is back.
                    Err(refusal)
                        if refusal.error.code == error::UNAVAILABLE && action.can_be_repeated() =>
                    {
                        Some(node)
                    }
                    Err(refusal) => return Err(refusal),
                }
            }
        };
        // Between two nodes, or just starting, or just gone: look again.
        let since = *gone_since.get_or_insert_with(Instant::now);
        match missing {
            None => gone_since = None,
            Some(node) if since.elapsed() > LOOKING => {
                let name = context.core.node_name(node);
                return Err(Refusal::unavailable(format!(
                    "process {reference} should be on node {name}, which does not have it; try again"
                )));
            }
            Some(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Has another node do it.
async fn ask(core: &Core, node: NodeId, id: &str, action: &Action) -> Answer {
    let (method, rest, body) = match action {
        Action::Inspect => (Method::GET, String::new(), Body::empty()),
        Action::Remove { force } => {
            let rest = format!("?force={}", u8::from(*force));
            (Method::DELETE, rest, Body::empty())
        }
        Action::Stop { timeout } => {
            let rest = format!("/stop?timeout={}", timeout.as_secs());
            (Method::POST, rest, Body::empty())
        }
        Action::Kill => (Method::POST, "/kill".to_owned(), Body::empty()),
        Action::Wait => (Method::GET, "/wait".to_owned(), Body::empty()),
        Action::Logs(wanted) => (Method::GET, wanted.path(), Body::empty()),
        Action::Input { at, bytes, end } => {
            let rest = format!("/input?at={at}&end={}", u8::from(*end));
            (Method::PUT, rest, Body::from(bytes.clone()))
        }
        Action::Fetched { position } => {
            let rest = format!("/fetched?position={position}");
            (Method::PUT, rest, Body::empty())
        }
        Action::Checkpoint => (Method::POST, "/checkpoint".to_owned(), Body::empty()),
        Action::Migrate { to, plan } => {
            let request = MigrateRequest {
                to: to.to_string(),
                strategy: plan.strategy,
                downtime_ms: u64::try_from(plan.downtime.as_millis()).ok(),
                bandwidth: plan.bandwidth,
            };
            let body = serde_json::to_vec(&request).map_err(Refusal::internal)?;
            (Method::POST, "/migrate".to_owned(), Body::from(body))
        }
    };
    let path = format!("/v1/processes/{id}{rest}");
    let response = forward::send(core, node, method, &path, HeaderMap::new(), body).await?;
    forward::relay(response).await
}

async fn perform(core: &Arc<Core>, managed: &Arc<Managed>, action: &Action) -> Done {
    match action {
        Action::Inspect => inspect(core, managed).await,
        Action::Remove { force } => remove(core, managed, *force).await,
        Action::Stop { timeout } => stop(core, managed, *timeout).await,
        Action::Kill => {
            let end = End::killed(KILLED, "killed");
            kill(core, managed, end).await?;
            info(core, managed)
        }
        Action::Wait => {
            ended(managed).await?;
            info(core, managed)
        }
        Action::Logs(wanted) => Ok(super::logs::stream_of(managed, wanted)),
        Action::Input { at, bytes, end } => input::take(managed, *at, bytes, *end).await,
        Action::Fetched { position } => {
            managed.console.fetched(*position);
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Action::Checkpoint => checkpoint(core, managed).await,
        Action::Migrate { to, plan } => migrate(core, managed, *to, *plan).await,
    }
}

fn info(core: &Core, managed: &Managed) -> Done {
    Ok(json(StatusCode::OK, &core.info(managed))?)
}

/// All that is known of it, also what takes a while to find out.
async fn inspect(core: &Core, managed: &Arc<Managed>) -> Done {
    let mut info = core.info(managed);
    let process = managed.clone();
    let resident = tokio::task::spawn_blocking(move || process.resident());
    if let Ok(Some(resident)) = resident.await {
        info.accounts.resident_bytes = Some(resident.bytes);
        info.accounts.private_bytes = Some(resident.private_bytes);
    }
    Ok(json(StatusCode::OK, &info)?)
}

/// Waits for its end here.
pub async fn ended(managed: &Managed) -> Result<(), Obstacle> {
    let mut status = managed.status();
    let over = |status: &Status| matches!(status, Status::Ended(_) | Status::Moved(_));
    match status.wait_for(over).await.as_deref() {
        Ok(Status::Ended(_)) => Ok(()),
        _ => Err(Obstacle::Moved),
    }
}

async fn kill(core: &Core, managed: &Managed, end: End) -> Result<(), Obstacle> {
    core.processes.kill(managed, end);
    let late = || {
        Refusal::unavailable(
            "the process is between two nodes and the directory does not answer; \
             it ends as soon as it is known where it is",
        )
    };
    tokio::time::timeout(ENDING, ended(managed))
        .await
        .map_err(|_| late())?
}

async fn remove(core: &Arc<Core>, managed: &Arc<Managed>, force: bool) -> Done {
    if !managed.has_ended() {
        if !force {
            let message = format!(
                "process {} is running; stop it first, or remove it by force",
                managed.name
            );
            return Err(Refusal::conflict(message).into());
        }
        let end = End::killed(KILLED, "removed");
        kill(core, managed, end).await?;
    }
    if force {
        managed.sockets.cut();
    }
    // Its record goes when its clients have the last that it wrote, or are cut off; and its name is
    // free only then. An answered removal has come to that.
    let longest = if force {
        RELEASING
    } else {
        DRAINING + RELEASING
    };
    let released = tokio::time::timeout(longest, released(core, managed));
    if released.await.is_err() {
        let message = format!(
            "process {} has ended, but the directory has not said that its name is free; try again",
            managed.name
        );
        return Err(Refusal::unavailable(message).into());
    }
    core.processes.forget(managed.id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Waits until the directory has no record of a process that has ended. A directory that does not
/// answer is not waited for: who wants the name must ask it.
async fn released(core: &Core, managed: &Managed) {
    let (process, epoch) = (managed.id, managed.epoch());
    let locate = || {
        core.node
            .command(move |token| Event::Locate { token, process })
    };
    // A later one is of another life.
    let held = |reply: Result<Reply, Failure>| match reply {
        Ok(Reply::Located(record)) => record.claim.epoch <= epoch,
        _ => false,
    };
    while !without_directory(core) && held(locate().await) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn stop(core: &Arc<Core>, managed: &Arc<Managed>, timeout: Duration) -> Done {
    // Its connections may end, or it may end by itself, or be moved.
    let quiet = async {
        tokio::select! {
            result = ended(managed) => result,
            () = async {
                close_listeners(core, managed).await;
                managed.sockets.idle().await;
            } => Ok(()),
        }
    };
    if let Ok(Err(obstacle)) = tokio::time::timeout(timeout, quiet).await {
        return Err(obstacle);
    }
    let end = End::killed(STOPPED, "stopped");
    kill(core, managed, end).await?;
    info(core, managed)
}

/// Tells every node that accepts connections for it to take no more. One that is not told loses them
/// with the process anyway.
async fn close_listeners(core: &Arc<Core>, managed: &Managed) {
    let anchors: BTreeSet<NodeId> = managed.listeners.iter().map(|l| l.anchor).collect();
    if anchors.contains(&core.me()) {
        core.anchors.close_listeners(managed.id);
    }
    let path = &format!("/v1/anchors/{}", managed.id);
    let others = anchors.into_iter().filter(|anchor| {
        *anchor != core.me() && core.fleet.borrow().health(*anchor) != Health::Dead
    });
    let telling = others.map(|anchor| async move {
        let none = HeaderMap::new();
        let told = forward::send(core, anchor, Method::DELETE, path, none, Body::empty());
        match tokio::time::timeout(TELLING, told).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => {
                tracing::warn!(reason = refusal.error.message, "an anchor was not told");
            }
            Err(_) => {
                let node = core.node_name(anchor);
                tracing::warn!(node, "an anchor was not told: it does not answer");
            }
        }
    });
    join_all(telling).await;
}

/// What refuses that a process goes elsewhere.
fn movable(managed: &Managed) -> Result<(), Refusal> {
    volumes::movable(&managed.name, &managed.volumes).map_err(Refusal::refused)
}

async fn checkpoint(core: &Arc<Core>, managed: &Arc<Managed>) -> Done {
    if managed.has_ended() {
        let message = format!(
            "process {} has ended; there is nothing to write down",
            managed.name
        );
        return Err(Refusal::conflict(message).into());
    }
    // A file can be restored anywhere.
    movable(managed)?;
    let sealed = tokio::time::timeout(FREEZING, managed.checkpoint()).await;
    let sealed = sealed.map_err(|_| Refusal::unavailable("the process does not freeze"))?;
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(_) if matches!(*managed.status().borrow(), Status::Moved(_)) => {
            return Err(Obstacle::Moved);
        }
        Err(reason) => return Err(Refusal::conflict(reason).into()),
    };
    Ok(start::checkpoint_file(core, managed, sealed).await?)
}

/// Calls the move of a process off, if nobody waits for its end any more.
struct Wanted<'a> {
    core: &'a Core,
    process: ProcessId,
    over: bool,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if !self.over {
            let (process, reason) = (self.process, "who asked for it has gone".to_owned());
            self.core.node.event(Event::Cancel { process, reason });
        }
    }
}

async fn migrate(core: &Arc<Core>, managed: &Arc<Managed>, to: NodeId, plan: Plan) -> Done {
    let ended = || {
        let message = format!(
            "process {} has ended; there is nothing to move",
            managed.name
        );
        Err(Refusal::conflict(message).into())
    };
    if managed.has_ended() {
        return ended();
    }
    movable(managed)?;
    let id = MoveId(super::start::random()?);
    let (process, artefact) = (managed.id, managed.artefact);
    let volumes = managed.volumes.clone();
    let memory_bytes = managed.memory_bytes();
    let mut wanted = Wanted {
        core,
        process,
        over: false,
    };
    let reply = core
        .node
        .command(move |token| Event::Migrate {
            token,
            id,
            process,
            to,
            artefact,
            memory_bytes,
            volumes,
            plan,
        })
        .await;
    wanted.over = true;
    let reply = match reply {
        // It has ended since.
        Err(Failure::UnknownProcess(_)) if managed.has_ended() => return ended(),
        reply => reply?,
    };
    let Reply::Moved {
        epoch,
        bytes: frozen_bytes,
        rounds,
        complaint,
        frozen,
        total,
    } = reply
    else {
        return Err(Refusal::internal(format!("unexpected reply {reply:?}")).into());
    };
    let report = MoveReport {
        process,
        from: core.me(),
        to,
        epoch,
        bytes: frozen_bytes + rounds.iter().map(|round| round.bytes).sum::<u64>(),
        frozen_bytes,
        rounds: rounds.iter().map(told).collect(),
        complaint,
        frozen_ms: frozen.as_secs_f64() * 1e3,
        total_ms: total.as_secs_f64() * 1e3,
    };
    Ok(json(StatusCode::OK, &report)?)
}

fn told(round: &Round) -> RoundReport {
    RoundReport {
        bytes: round.bytes,
        took_ms: round.took.as_secs_f64() * 1e3,
        dirty_bytes: round.dirty,
    }
}

/// What can be done with a process whose node is gone.
async fn with_lost(core: &Arc<Core>, record: &Record, action: &Action) -> Answer {
    let node = core.fleet.borrow().named(record.claim.owner);
    let lost = || {
        Err(Refusal::unavailable(format!(
            "process {} was on node {node}, which does not answer; remove it with `limosa rm`, or \
             start that node again",
            record.name
        )))
    };
    match action {
        Action::Inspect | Action::Wait => {
            let info = fleet::missing(record, &node, true);
            json(StatusCode::OK, &info)
        }
        Action::Remove { .. } => {
            let process = record.process;
            core.node
                .command(move |token| Event::Remove { token, process })
                .await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        _ => lost(),
    }
}
