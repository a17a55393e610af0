//! A program in the foreground: no daemon, no fleet, the terminal's standard streams.
//!
//! Its listeners work as under a daemon: anchors in this very OS process, joined to the program's
//! sockets through memory.

use crate::anchors::{self, Anchors, OpenError};
use crate::executor::weight::Weight;
use crate::executor::{self, Executor};
use crate::fleet::FleetView;
use crate::links::Dialler;
use crate::links::identity::{Identity, IdentityError, generate};
use crate::loader::{Loader, Unloadable};
use crate::processes::console::Console;
use crate::processes::log::Log;
use crate::processes::managed::{
    End, KILLED, Launch, Managed, NOT_STARTED, Origin, Reports, Status,
};
use crate::processes::sealed::Sealed;
use crate::processes::sockets::Sockets;
use crate::processes::terminal::Terminal;
use crate::processes::tree::{self, BirthError};
use crate::processes::volumes::{Grants, Refused};
use crate::switch::Switch;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use vm::{Backend, Engine, EngineError};
use wire::api::{ListenerInfo, RunSpec};
use wire::control::Member;
use wire::{Epoch, MoveId, ProcessId};

pub use vm::LoadError;

/// How long an interrupted program may take to end: it may be stuck in a write to the terminal.
const ENDING: Duration = Duration::from_secs(2);

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where compiled code is kept; nowhere if absent.
    pub cache_dir: Option<PathBuf>,
    /// What the program is compiled to.
    pub backend: Backend,
    /// Whether it runs as it is, and cannot be frozen.
    pub immobile: bool,
}

/// How long clients may take to receive the last bytes of a program that has ended.
const LAST_BYTES: Duration = Duration::from_secs(30);

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By doing what no program may.
    Trapped {
        /// What, in one line.
        reason: String,
        /// Where, function by function.
        backtrace: String,
    },
    /// By the interrupt.
    Interrupted,
    /// By writing to a standard stream that nobody reads any more: as natively by SIGPIPE, since
    /// most programs do not look.
    Unread,
}

/// Why a program did not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The module cannot be run.
    #[error(transparent)]
    Module(LoadError),
    /// The engine cannot be set up.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of its tree makes no sense, or a limit.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// A volume cannot be given.
    #[error(transparent)]
    Volume(#[from] Refused),
    /// A listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] OpenError),
    /// No key could be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Something else.
    #[error("the program could not be started: {0}")]
    Start(String),
}

/// Runs a program until it ends, or `interrupt` is ready. `files` are the contents of
/// `spec.files`, in order. `listening` is called with the listeners before it starts.
pub async fn run(
    spec: &RunSpec,
    files: &[Vec<u8>],
    module: impl Into<Bytes>,
    options: Options,
    listening: impl FnOnce(&[ListenerInfo]),
    interrupt: impl Future<Output = ()>,
) -> Result<Ended, LocalError> {
    let engine = Engine::new(vm::Config {
        backend: options.backend,
        cache_dir: options.cache_dir,
        immobile: options.immobile,
        ..vm::Config::default()
    })?;
    let weight = spec
        .cpu_weight
        .map_or(Ok(Weight::default()), Weight::try_from);
    let weight = weight.map_err(|error| LocalError::Start(error.to_string()))?;
    let contents: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    // Before anything is opened: a file that makes no sense is said first.
    let mut birth = tree::birth(spec, &contents, Vec::new())?;
    // They are the user's own, who runs this.
    let volumes = Grants::All.open(&spec.volumes)?;
    let image = Loader::load_alone(engine, module.into())
        .await
        .map_err(|error| match error {
            Unloadable::Module(error) => LocalError::Module(error),
            error => LocalError::Start(error.to_string()),
        })?;

    let switch = Switch::new(alone()?);
    let process = ProcessId(1);
    let anchors = Anchors::new(switch.clone(), None, anchors::Most::default());
    let (opened, listeners) = anchors.open(process, &spec.listen).await?;
    listening(&listeners);
    let names: Vec<String> = listeners.iter().map(|l| l.name.clone()).collect();
    let sockets = Sockets::new(&switch, process, Epoch(1), names.clone())
        .map_err(|error| LocalError::Start(error.to_string()))?;
    sockets.grant(&anchors, spec.allow_net.clone());
    birth.listeners = names;
    let terminal = Arc::new(Terminal::new());
    let log = Log::new(0, None);
    let launch = Launch {
        id: process,
        name: spec.name.clone().unwrap_or_else(|| "program".to_owned()),
        image,
        origin: Origin::Birth(Box::new(birth)),
        sockets,
        console: Console::detached(log.clone()),
        stdio: Some(terminal.clone()),
        log,
        listeners,
        born_ns: 0,
        moves: 0,
        volumes,
        weight,
    };
    let (created, made) = oneshot::channel();
    let executor = Executor::new(executor::Config {
        workers: 1,
        ..executor::Config::default()
    });
    let executor = executor.map_err(|error| LocalError::Start(error.to_string()))?;
    let managed = Managed::spawn(&executor, launch, Arc::new(Nobody), created);
    made.await
        .unwrap_or_else(|_| Err("its node has gone down".to_owned()))
        .map_err(LocalError::Start)?;
    managed.go_on(Epoch(1));
    opened.assign(switch.me(), Epoch(1));

    let mut status = managed.status();
    let ended = |status: &Status| matches!(status, Status::Ended(_));
    let mut interrupt = std::pin::pin!(interrupt);
    let stopped = tokio::select! {
        biased;
        _ = status.wait_for(ended) => None,
        () = &mut interrupt => Some(Ended::Interrupted),
        () = terminal.unread() => Some(Ended::Unread),
    };
    if let Some(stopped) = stopped {
        managed.kill(End::killed(KILLED, "interrupted"));
        let _ = tokio::time::timeout(ENDING, status.wait_for(ended)).await;
        return Ok(stopped);
    }
    anchors.close_listeners(process);
    // Its clients may be slow.
    tokio::select! {
        biased;
        () = async {
            managed.sockets.drained().await;
            let _ = tokio::time::timeout(LAST_BYTES, anchors.delivered()).await;
        } => {}
        () = interrupt => return Ok(Ended::Interrupted),
    }
    let end = status.borrow().clone();
    Ok(match end {
        Status::Ended(End {
            reason: Some(reason),
            backtrace: Some(backtrace),
            ..
        }) => Ended::Trapped { reason, backtrace },
        Status::Ended(End {
            code: Some(code), ..
        }) => Ended::Exited(code),
        _ => Ended::Exited(NOT_STARTED),
    })
}

/// A node that knows nobody.
pub(crate) fn alone() -> Result<Dialler, LocalError> {
    let identity = Identity::new(&generate()?)?;
    let me = Member {
        node: identity.node(),
        name: "local".to_owned(),
        address: String::new(),
        incarnation: 1,
    };
    let (_, fleet) = watch::channel(FleetView {
        directory: me.node,
        me,
        members: BTreeMap::new(),
        health: BTreeMap::new(),
    });
    Ok(Dialler {
        identity,
        name: "local".to_owned(),
        incarnation: 1,
        fleet,
    })
}

/// There is no one to tell what the process's status does not.
struct Nobody;

impl Reports for Nobody {
    fn frozen(&self, _: &Arc<Managed>, _: MoveId, _: Result<Box<Sealed>, String>) {}
    fn ended(&self, _: &Arc<Managed>) {}
}
