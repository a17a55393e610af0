//! `limosa run` of a process of a node with the terminal attached: what it writes appears here, what
//! it reads comes from here, its exit code is the command's, and an interrupt kills it.

use super::run::{Started, guest_code, say_where};
use super::{Context, workers};
use crate::failure::{Failure, code};
use crate::output;
use crate::progress::during;
use crate::signals::asked_to_end;
use daemon::client::{Client, ClientError};
use daemon::processes::terminal::read_input;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use wire::api::{ProcessInfo, ProcessState};

/// How long a process that was killed may take to end before it is left alone.
const ENDING: Duration = Duration::from_secs(5);
/// After what pause input is offered again that could not be handed over.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of standard input that are read at once.
const PIECE: usize = 16 << 10;
/// What a process that trapped has for an exit code.
const TRAPPED: i32 = code::TRAPPED as i32;

/// How it ended, as far as the terminal is concerned.
enum End {
    Process(Box<ProcessInfo>),
    Interrupted(u8),
    /// Nobody reads what it writes any more.
    Unread,
}

/// Starts the process and stays with it until it ends.
pub fn run(context: &Context, start: Started<'_>, remove: bool) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let runtime = workers()?;
    let result = runtime.block_on(async {
        let mut interrupt = std::pin::pin!(asked_to_end());
        let message = start.message();
        let mut starting = std::pin::pin!(during(&message, start.perform(&client)));
        let (process, signal) = tokio::select! {
            started = &mut starting => (started, None),
            // What was begun comes to its end at the node, so it is waited for and then undone.
            signal = &mut interrupt => (starting.await, Some(signal)),
        };
        let process = process.map_err(|error| Failure::from(error).or_code(code::NOT_STARTED))?;
        let id = process.id.to_string();
        let end = match signal {
            Some(signal) => Ok(End::Interrupted(signal)),
            None => {
                say_where(&process.listeners);
                tokio::select! {
                    end = follow(&client, &id) => end,
                    never = feed(&client, &id) => match never {},
                    signal = &mut interrupt => Ok(End::Interrupted(signal)),
                }
            }
        };
        if !matches!(end, Ok(End::Process(_))) {
            let killed = tokio::time::timeout(ENDING, client.kill(&id)).await;
            if let Ok(Err(error)) = killed {
                output::note(&format!("limosa: process {id} may still run: {error}"));
            }
        }
        if remove {
            let removed = tokio::select! {
                removed = client.remove(&id, false) => removed,
                signal = asked_to_end() => return Err(Failure::quiet(signal)),
            };
            if let Err(error) = removed
                && error.code() != Some("unknown_process")
            {
                // The command's exit code is the process's all the same.
                output::note(&format!("limosa: process {id} is not removed: {error}"));
            }
        }
        conclude(end?)
    });
    // A thread may be writing to a terminal that stands still; it must not hold up the end.
    runtime.shutdown_background();
    result
}

fn conclude(end: End) -> Result<ExitCode, Failure> {
    let process = match end {
        End::Process(process) => process,
        End::Interrupted(code) => return Err(Failure::quiet(code)),
        End::Unread => return Err(Failure::quiet(code::UNREAD)),
    };
    let name = &process.name;
    match (process.state, process.exit_code, &process.reason) {
        (ProcessState::Lost, ..) => Err(Failure::new(lost(&process))),
        // Its log has said why.
        (_, Some(TRAPPED), Some(_)) => Err(Failure::quiet(code::TRAPPED)),
        (_, Some(status), reason) => {
            if let Some(reason) = reason {
                output::note(&format!("limosa: process {name} was ended: {reason}"));
            }
            Ok(guest_code(status))
        }
        (_, None, reason) => {
            let reason = reason.as_deref().unwrap_or("nobody knows how");
            Err(Failure::new(format!("process {name} has ended: {reason}")))
        }
    }
}

/// What there is to say about a process that was lost with its node.
pub fn lost(process: &ProcessInfo) -> String {
    format!(
        "process {} was lost with node {}, which does not answer; remove it with `limosa rm {}`, \
         or start that node again, and `limosa inspect {}` says what became of it",
        process.name, process.node_name, process.name, process.name
    )
}

/// Passes on standard input, as much as the process asks for.
async fn feed(client: &Client, id: &str) -> Infallible {
    let (mut at, mut piece, mut end) = (0, Vec::new(), false);
    loop {
        match client.input(id, at, piece.clone(), end).await {
            // What it has no room for stays here until it has read.
            Ok(received) => {
                let taken = usize::try_from(received.saturating_sub(at)).unwrap_or(usize::MAX);
                piece.drain(..taken.min(piece.len()));
                at = received;
            }
            // Its node may answer again; a piece that was taken is not taken twice.
            Err(error) if error.code() == Some("unavailable") => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            // What else keeps input from its process is said by its end.
            Err(_) => break,
        }
        if !piece.is_empty() {
            continue;
        }
        if end {
            break;
        }
        let read = tokio::task::spawn_blocking(|| {
            let mut buffer = vec![0; PIECE];
            let length = read_input(&mut buffer);
            buffer.truncate(length);
            buffer
        });
        piece = read.await.unwrap_or_default();
        end = piece.is_empty();
    }
    std::future::pending().await
}

/// Passes on what it writes, until it ends.
async fn follow(client: &Client, id: &str) -> Result<End, Failure> {
    let mut logs = client.attach(id).await?;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let piece = match logs.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            // Lost with its node perhaps: asked for below.
            Err(error @ ClientError::Protocol(_)) => {
                output::note(&format!(
                    "limosa: what process {id} writes breaks off here: {error}"
                ));
                break;
            }
            Err(error) => return Err(error.into()),
        };
        let written = match piece {
            (2, bytes) => write(&mut stderr, &bytes).await,
            (_, bytes) => write(&mut stdout, &bytes).await,
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(End::Unread),
            written => written?,
        }
    }
    Ok(End::Process(Box::new(client.wait(id).await?)))
}

async fn write(target: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    target.write_all(bytes).await?;
    target.flush().await
}
