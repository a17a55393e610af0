//! New processes: `POST /v1/processes` and `POST /v1/restore`; and checkpoints, which `restore`
//! takes.
//!
//! The node that is asked opens the listeners and is their anchor, whichever node runs the
//! process. A request that is handed to another node therefore says, in headers that only nodes
//! use, which id the process has and where its clients connect.

use super::resolve::records;
use super::{Answer, Context, Refusal, error, forward, header, json};
use crate::anchors::Opened;
use crate::client::percent;
use crate::core::Core;
use crate::executor::weight::Weight;
use crate::loader::{Unloadable, blocking};
use crate::processes::NoPlace;
use crate::processes::console::Console;
use crate::processes::log::Log;
use crate::processes::managed::{Launch, Managed, Origin};
use crate::processes::sockets::{NoSockets, Sockets};
use crate::processes::tree;
use crate::store::images::MAX_IMAGE_BYTES;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use node::Failure;
use node::event::{Event, Reply};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use vm::{Image, LoadError};
use wire::api::run_body::{self, RunBody};
use wire::api::{ListenSpec, ListenerInfo, ProcessInfo, Terminals};
use wire::checkpoint::{Checkpoint, Head};
use wire::destination::Rule;
use wire::frame::ResetReason;
use wire::name::{MAX_NAME, check_name, name_from};
use wire::snapshot::{Kernel, Limits, Snapshot, Volume};
use wire::{Epoch, NodeId, ProcessId};

/// The longest checkpoint file that is taken, in bytes.
pub const MAX_CHECKPOINT_BYTES: u64 = 8 << 30;
/// Bytes of files beside the module that a request to run may have.
pub const MAX_FILES_BYTES: u64 = 1 << 30;
/// Between nodes: the process's id, and its listeners as JSON.
const PROCESS: &str = "limosa-process";
const LISTENERS: &str = "limosa-listeners";
/// The listeners that a process may have.
const MAX_LISTENERS: usize = 64;

/// A random number for an id.
pub fn random() -> Result<u64, Refusal> {
    getrandom::u64().map_err(Refusal::internal)
}

async fn read_body(request: Request, limit: u64) -> Result<Bytes, Refusal> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let body = Limited::new(request.into_body(), limit).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Refusal::bad_request(format!("the request's body is longer than {limit} bytes")),
        None => Refusal::bad_request(format!("the request's body was cut off: {error}")),
    })?;
    // It has come in pieces; to join them copies all of it.
    let whole = blocking(move || Ok(body.to_bytes()));
    whole.await.map_err(Refusal::internal)
}

/// What a node that forwards a request has decided already.
#[derive(Clone)]
struct Decided {
    process: ProcessId,
    listeners: Vec<ListenerInfo>,
}

impl Decided {
    fn read(headers: &HeaderMap) -> Result<Option<Decided>, Refusal> {
        let (process, listeners) = (header(headers, PROCESS), header(headers, LISTENERS));
        let (Some(process), Some(listeners)) = (process, listeners) else {
            return Ok(None);
        };
        Ok(Some(Decided {
            process: process.parse().map_err(Refusal::bad_request)?,
            listeners: serde_json::from_str(listeners).map_err(Refusal::bad_request)?,
        }))
    }

    fn write(&self) -> Result<HeaderMap, Refusal> {
        let listeners = serde_json::to_string(&self.listeners).map_err(Refusal::internal)?;
        let value = |text: &str| HeaderValue::from_str(text).map_err(Refusal::bad_request);
        let mut headers = HeaderMap::new();
        headers.insert(PROCESS, value(&self.process.to_string())?);
        headers.insert(LISTENERS, value(&listeners)?);
        Ok(headers)
    }
}

/// What was begun is brought to its end although the client goes: half of it would be left behind.
async fn to_the_end(work: impl Future<Output = Answer> + Send + 'static) -> Answer {
    let fault = |_| {
        Err(Refusal::internal(
            "a fault in limosa itself; see the node's log",
        ))
    };
    tokio::spawn(work).await.unwrap_or_else(fault)
}

/// `POST /v1/processes`
pub async fn run(State(context): State<Context>, request: Request) -> Answer {
    to_the_end(run_to_the_end(context, request)).await
}

async fn run_to_the_end(context: Context, request: Request) -> Answer {
    let decided = forwarded(&context, request.headers())?;
    let body = read_body(request, MAX_IMAGE_BYTES + MAX_FILES_BYTES).await?;
    let RunBody { spec, module, .. } = run_body::decode(&body).map_err(Refusal::bad_request)?;
    if module.len() as u64 > MAX_IMAGE_BYTES {
        return Err(Refusal::bad_request("the module is too long"));
    }
    if let Some(decided) = decided {
        let made = run_here(&context.core, body, decided).await?;
        return json(StatusCode::CREATED, &made);
    }
    let target = target(&context.core, spec.on.as_deref())?;
    let (decided, opened) = open(&context.core, ProcessId(random()?), &spec.listen).await?;
    let made = match target {
        None => run_here(&context.core, body, decided).await?,
        Some(node) => {
            let headers = decided.write()?;
            hand_over(&context.core, node, "/v1/processes", headers, body).await?
        }
    };
    opened.assign(made.node, made.epoch);
    json(StatusCode::CREATED, &made)
}

/// What another node has decided; only nodes may say so.
fn forwarded(context: &Context, headers: &HeaderMap) -> Result<Option<Decided>, Refusal> {
    if !context.forwarded() {
        return Ok(None);
    }
    let decided = Decided::read(headers)?;
    let missing = || Refusal::bad_request("a forwarded request must say what was decided");
    decided.ok_or_else(missing).map(Some)
}

/// The node to run on, if it is another.
fn target(core: &Core, on: Option<&str>) -> Result<Option<NodeId>, Refusal> {
    let Some(on) = on else { return Ok(None) };
    let node = core.fleet.borrow().find(on)?;
    Ok((node != core.me()).then_some(node))
}

/// Opens the listeners for a new process. Its clients wait until it is known where it runs.
async fn open(
    core: &Arc<Core>,
    process: ProcessId,
    listen: &[ListenSpec],
) -> Result<(Decided, Opened), Refusal> {
    if listen.len() > MAX_LISTENERS {
        let message = format!("a process may have {MAX_LISTENERS} listeners");
        return Err(Refusal::bad_request(message));
    }
    let (opened, listeners) = core
        .anchors
        .open(process, listen)
        .await
        .map_err(|error| Refusal::conflict(error.to_string()))?;
    Ok((Decided { process, listeners }, opened))
}

async fn hand_over(
    core: &Core,
    node: NodeId,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<ProcessInfo, Refusal> {
    let response = forward::send(core, node, Method::POST, path, headers, Body::from(body)).await?;
    forward::read(response).await
}

async fn run_here(core: &Arc<Core>, body: Bytes, decided: Decided) -> Result<ProcessInfo, Refusal> {
    core.processes.room().map_err(Refusal::unavailable)?;
    let listeners: Vec<String> = decided.listeners.iter().map(|l| l.name.clone()).collect();
    // Copies the files.
    let read = blocking(move || {
        let bad = |error: &dyn std::fmt::Display| Unloadable::Store(error.to_string());
        let RunBody {
            spec,
            files,
            module,
        } = run_body::decode(&body).map_err(|error| bad(&error))?;
        let birth = tree::birth(&spec, &files, listeners).map_err(|error| bad(&error))?;
        Ok((spec, birth, body.slice_ref(module)))
    });
    let (spec, birth, module) = read.await.map_err(Refusal::bad_request)?;
    let volumes = grant(core, spec.volumes.clone()).await?;
    let weight = spec
        .cpu_weight
        .map_or(Ok(Weight::default()), Weight::try_from);
    let weight = weight.map_err(Refusal::bad_request)?;
    let fixed = spec.name.is_some();
    let name = match &spec.name {
        Some(name) => checked_name(name)?.to_owned(),
        None => name_of(spec.args.first().map_or("", String::as_str)),
    };
    let image = core.loader.add(module).await.map_err(unloadable)?;
    let start = Start {
        id: decided.process,
        name,
        fixed,
        image,
        listeners: decided.listeners,
        allow_net: spec.allow_net,
        again: false,
        attach: spec.attach,
        volumes,
        weight,
    };
    start.perform(core, Origin::Birth(Box::new(birth))).await
}

/// Opens volumes for a process of this node.
async fn grant(core: &Core, volumes: Vec<Volume>) -> Result<Arc<[vm::Volume]>, Refusal> {
    let grants = core.grants.clone();
    let opened = blocking(move || {
        let opened = grants.open(&volumes);
        opened.map_err(|refused| Unloadable::Store(refused.to_string()))
    });
    opened.await.map_err(Refusal::refused)
}

/// Why a module cannot be run, for the API.
pub fn unloadable(error: Unloadable) -> Refusal {
    match &error {
        Unloadable::Module(LoadError::Pass(
            freeze::Error::NotWasm | freeze::Error::Component | freeze::Error::Invalid { .. },
        )) => Refusal::not_wasm(error),
        Unloadable::Module(LoadError::Memory(_)) => Refusal::internal(error),
        Unloadable::Module(_) => Refusal::unsupported(error),
        Unloadable::Store(_) | Unloadable::Missing(_) => Refusal::internal(error),
    }
}

fn checked_name(name: &str) -> Result<&str, Refusal> {
    check_name(name).map_err(Refusal::bad_request)?;
    Ok(name)
}

/// A name made from the program's.
fn name_of(program: &str) -> String {
    let base = program.rsplit('/').next().unwrap_or_default();
    let base = base.strip_suffix(".wasm").unwrap_or(base);
    name_from(base, 40, "process")
}

/// Another name for a process whose own is taken: as much of it as leaves room for digits of its id.
fn beside(name: &str, id: ProcessId) -> String {
    const DIGITS: usize = 6;
    let begin = name.chars().take(MAX_NAME - DIGITS - 1);
    let digits = id.to_string();
    begin
        .chain(['-'])
        .chain(digits.chars().take(DIGITS))
        .collect()
}

/// A process to be made here.
struct Start {
    id: ProcessId,
    name: String,
    /// The name was given; if it is taken, that is an error.
    fixed: bool,
    image: Arc<Image>,
    listeners: Vec<ListenerInfo>,
    /// Where it may connect to.
    allow_net: Vec<Rule>,
    /// There has been a process of this id.
    again: bool,
    /// Somebody stays with it.
    attach: Option<Terminals>,
    volumes: Arc<[vm::Volume]>,
    weight: Weight,
}

impl Start {
    async fn perform(self, core: &Arc<Core>, mut origin: Origin) -> Result<ProcessInfo, Refusal> {
        let (id, again, mut name) = (self.id, self.again, self.name.clone());
        // Until it is listed: whoever comes meanwhile must not touch what is made under this id.
        let reserved = core.processes.reserve(id).map_err(|error| match error {
            NoPlace::Taken => Refusal::id_taken(id),
            NoPlace::Full(reason) => Refusal::unavailable(reason),
        })?;
        loop {
            let sockets = match &origin {
                Origin::Birth(birth) => {
                    Sockets::new(&core.switch, id, Epoch(1), birth.listeners.iter().cloned())
                }
                Origin::Snapshot(snapshot, _) => {
                    Sockets::restored(&core.switch, id, Epoch(1), &snapshot.kernel)
                }
            };
            let sockets = sockets.map_err(|error| match error {
                NoSockets::Taken => Refusal::id_taken(id),
                NoSockets::State(_) => Refusal::bad_request(error),
            })?;
            sockets.grant(&core.anchors, self.allow_net.clone());
            let log = Log::new(0, Some(&core.processes.log_path(id)));
            let launch = Launch {
                id,
                name: name.clone(),
                image: self.image.clone(),
                origin,
                sockets,
                console: match self.attach {
                    Some(terminals) => Console::attached(log.clone(), terminals),
                    None => Console::detached(log.clone()),
                },
                stdio: None,
                log,
                listeners: self.listeners.clone(),
                born_ns: now_ns(),
                moves: 0,
                volumes: self.volumes.clone(),
                weight: self.weight,
            };
            let made = reserved.prepare(launch);
            let (started, image) = (name.clone(), self.image.id());
            let reply = core.node.command(move |token| Event::Start {
                token,
                process: id,
                name: started,
                image,
                again,
            });
            match reply.await {
                Ok(Reply::Started(_)) => {
                    made.await
                        .unwrap_or_else(|_| Err("its node has gone down".to_owned()))
                        .map_err(|reason| {
                            Refusal::internal(format!("it does not start: {reason}"))
                        })?;
                    let managed = core.processes.get(id);
                    let managed = managed.ok_or_else(|| Refusal::internal("it went at once"))?;
                    return Ok(core.info(&managed));
                }
                Ok(reply) => {
                    reserved.withdraw();
                    return Err(Refusal::internal(format!("unexpected reply {reply:?}")));
                }
                Err(failure) => {
                    let withdrawn = reserved.withdraw();
                    match (failure, withdrawn) {
                        (Failure::NameTaken { by, .. }, _) if by == id => {
                            return Err(Refusal::id_taken(id));
                        }
                        (Failure::NameTaken { .. }, Some(again))
                            if !self.fixed && name == self.name =>
                        {
                            name = beside(&name, id);
                            origin = again;
                        }
                        (failure, _) => return Err(failure.into()),
                    }
                }
            }
        }
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// What a checkpoint request answers.
pub async fn checkpoint_file(
    core: &Arc<Core>,
    managed: &Arc<Managed>,
    sealed: Arc<Snapshot>,
) -> Answer {
    let (images, image) = (core.loader.images().clone(), managed.image);
    let head = Head {
        process: managed.id,
        name: managed.name.clone(),
        listeners: managed
            .listeners
            .iter()
            .map(|l| l.address.clone())
            .collect(),
    };
    let parts = blocking(move || {
        let module = images.get(image).map_err(Unloadable::Store)?;
        let module = module.ok_or(Unloadable::Missing(image))?;
        let snapshot = sealed.encode();
        let checkpoint = Checkpoint {
            head,
            snapshot: &snapshot,
            module: &module,
        };
        let header = checkpoint.encode_header();
        let header = header.map_err(|error| Unloadable::Store(error.to_string()))?;
        Ok([header.into(), snapshot.into(), module.into()])
    });
    let parts: [Bytes; 3] = parts.await.map_err(Refusal::internal)?;
    let length: usize = parts.iter().map(Bytes::len).sum();
    let parts = parts.map(Ok::<Bytes, std::convert::Infallible>);
    let body = Body::from_stream(futures_util::stream::iter(parts));
    let headers = [
        (
            "content-type",
            "application/vnd.limosa.checkpoint".to_owned(),
        ),
        ("content-length", length.to_string()),
    ];
    Ok((headers, body).into_response())
}

/// What the query of a restore says.
#[derive(Debug, Default, PartialEq, Eq)]
struct RestoreQuery {
    name: Option<String>,
    on: Option<String>,
    /// Addresses for its listeners, in their order.
    listen: Vec<String>,
    /// Where it may connect to: the checkpoint gives no right to anything.
    allow_net: Vec<Rule>,
}

impl RestoreQuery {
    fn read(query: &str) -> Result<RestoreQuery, Refusal> {
        let mut read = RestoreQuery::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = unescape(value)
                .ok_or_else(|| Refusal::bad_request(format!("cannot read `{pair}`")))?;
            match key {
                "name" => read.name = Some(value),
                "on" => read.on = Some(value),
                "listen" => read.listen.push(value),
                "allow_net" => read
                    .allow_net
                    .push(value.parse().map_err(Refusal::bad_request)?),
                _ => return Err(Refusal::bad_request(format!("restore has no `{key}`"))),
            }
        }
        Ok(read)
    }

    fn write(&self) -> String {
        let name = self.name.iter().map(|name| ("name", name.clone()));
        let rules = self.allow_net.iter();
        let rules = rules.map(|rule| ("allow_net", rule.to_string()));
        let pairs = name.chain(rules);
        let pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{key}={}", percent(&value)))
            .collect();
        format!("/v1/restore?{}", pairs.join("&"))
    }
}

fn unescape(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// `POST /v1/restore`
pub async fn restore(State(context): State<Context>, request: Request) -> Answer {
    to_the_end(restore_to_the_end(context, request)).await
}

async fn restore_to_the_end(context: Context, request: Request) -> Answer {
    let decided = forwarded(&context, request.headers())?;
    let query = RestoreQuery::read(request.uri().query().unwrap_or_default())?;
    if let Some(name) = &query.name {
        checked_name(name)?;
    }
    let body = read_body(request, MAX_CHECKPOINT_BYTES).await?;
    let core = &context.core;
    if let Some(decided) = decided {
        let made = restore_here(core, &query, body, decided).await?;
        return json(StatusCode::CREATED, &made);
    }
    // Checked here first, so that nothing is opened or sent for a file that is none.
    let (file, kernel) = {
        let body = body.clone();
        let checked = blocking(move || {
            let bad = |error: &dyn std::fmt::Display| Unloadable::Store(error.to_string());
            let checkpoint = Checkpoint::decode(&body).map_err(|error| bad(&error))?;
            let snapshot = Snapshot::decode(checkpoint.snapshot).map_err(|error| bad(&error))?;
            Ok((checkpoint.head, snapshot.kernel))
        });
        checked.await.map_err(Refusal::bad_request)?
    };
    let wished = match query.listen.is_empty() {
        true => &file.listeners,
        false => &query.listen,
    };
    let listen = listeners_of(&kernel, wished)?;
    let target = target(core, query.on.as_deref())?;
    // The first to restore it takes the old identity, if nothing has it any more.
    let taken = records(core).await?;
    let process = match taken.iter().any(|record| record.process == file.process) {
        false => file.process,
        true => ProcessId(random()?),
    };
    let (mut decided, mut opened) = open(core, process, &listen).await?;
    let made = loop {
        let (body, decision) = (body.clone(), decided.clone());
        let made = match target {
            None => restore_here(core, &query, body, decision).await,
            Some(node) => {
                let headers = decision.write()?;
                hand_over(core, node, &query.write(), headers, body).await
            }
        };
        match made {
            // Somebody else has restored it since it was looked for.
            Err(refusal)
                if refusal.error.code == error::ID_TAKEN && decided.process == file.process =>
            {
                decided.process = ProcessId(random()?);
                opened.rename(decided.process);
            }
            made => break made?,
        }
    };
    opened.assign(made.node, made.epoch);
    json(StatusCode::CREATED, &made)
}

/// The listeners of a process that is restored get these addresses, in order: the given ones, or
/// where they were. The rest get none and never hear of a client.
fn listeners_of(kernel: &Kernel, addresses: &[String]) -> Result<Vec<ListenSpec>, Refusal> {
    if addresses.len() > kernel.listeners.len() {
        return Err(Refusal::bad_request(format!(
            "the checkpoint has {} listeners, {} addresses are given",
            kernel.listeners.len(),
            addresses.len()
        )));
    }
    let pairs = kernel.listeners.iter().zip(addresses);
    let specs = pairs.map(|(listener, address)| {
        let (name, address) = match address.split_once('=') {
            Some((name, address)) => (name, address),
            None => (&*listener.name, address.as_str()),
        };
        if name != listener.name {
            return Err(Refusal::bad_request(format!(
                "the listener here is `{}`, not `{name}`",
                listener.name
            )));
        }
        Ok(ListenSpec {
            address: address.to_owned(),
            name: listener.name.clone(),
        })
    });
    specs.collect()
}

async fn restore_here(
    core: &Arc<Core>,
    query: &RestoreQuery,
    body: Bytes,
    decided: Decided,
) -> Result<ProcessInfo, Refusal> {
    core.processes.room().map_err(Refusal::unavailable)?;
    let parts = {
        let body = body.clone();
        blocking(move || {
            let bad = |error: &dyn std::fmt::Display| Unloadable::Store(error.to_string());
            let checkpoint = Checkpoint::decode(&body).map_err(|error| bad(&error))?;
            let snapshot = Snapshot::decode(checkpoint.snapshot).map_err(|error| bad(&error))?;
            Ok((checkpoint.head, snapshot, body.slice_ref(checkpoint.module)))
        })
    };
    let (head, mut snapshot, module) = parts.await.map_err(Refusal::bad_request)?;
    break_streams(&mut snapshot.kernel);
    snapshot.kernel.limits = snapshot.kernel.limits.within(Limits::default());
    let volumes = grant(core, snapshot.volumes.clone()).await?;
    let image = core.loader.add(module).await.map_err(unloadable)?;
    if image.id() != snapshot.image || image.artefact_id() != snapshot.artefact {
        return Err(Refusal::bad_request(
            "the checkpoint's snapshot is of another program, or of another release's artefact of it",
        ));
    }
    let start = Start {
        id: decided.process,
        name: checked_name(query.name.as_ref().unwrap_or(&head.name))?.to_owned(),
        fixed: query.name.is_some(),
        image,
        listeners: decided.listeners,
        allow_net: query.allow_net.clone(),
        again: decided.process == head.process,
        attach: None,
        volumes,
        weight: Weight::default(),
    };
    let origin = Origin::Snapshot(Box::new(snapshot), None);
    start.perform(core, origin).await
}

/// An older state goes on: the clients it knew have seen what it has not, and are not its own any
/// more. Connections that waited are gone, the others break at the next read or write.
fn break_streams(kernel: &mut Kernel) {
    let waiting: Vec<_> = kernel
        .listeners
        .iter_mut()
        .flat_map(|listener| std::mem::take(&mut listener.queue))
        .collect();
    kernel
        .streams
        .retain(|stream| !waiting.contains(&stream.id));
    for stream in &mut kernel.streams {
        stream.unread.clear();
        stream.unacknowledged.clear();
        stream.reset = Some(ResetReason::Rollback);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_from_the_programs() {
        assert_eq!(name_of("guests/accounts/accounts.wasm"), "accounts");
        assert_eq!(name_of("we ird$.wasm"), "weird");
        assert_eq!(name_of(""), "process");
    }

    #[test]
    fn a_name_beside_the_longest_one_is_a_name() {
        let id = ProcessId(0xcafe_f00d_0000_0001);
        assert_eq!(beside("web", id), "web-cafef0");
        for length in [1, MAX_NAME - 7, MAX_NAME - 6, MAX_NAME] {
            let name = beside(&"x".repeat(length), id);
            assert_eq!(check_name(&name), Ok(()), "{name}");
        }
    }

    #[test]
    fn the_query_of_a_restore_may_name_several_listeners() {
        let read = RestoreQuery::read("name=a%2Db&listen=%5B%3A%3A1%5D%3A80&listen=x").unwrap();
        assert_eq!(read.name.as_deref(), Some("a-b"));
        assert_eq!(read.listen, ["[::1]:80", "x"]);
        assert!(RestoreQuery::read("nmae=x").is_err());
        assert!(RestoreQuery::read("name=%2").is_err());
    }
}
