//! `limosa bench io`: what a server pays for being a process.
//!
//! The HTTP guest answers as many requests as it can over kept connections on loopback, one
//! outstanding on each, from one client thread; and so does the same C source compiled natively.
//! They take turns, and the ratio is that of neighbouring turns. Where the rest goes is told by the
//! CPU time of the node's threads, by what they do: the anchor and the switch (sockets, streams;
//! `tokio`), the process and its kernel (`limosa-worker`), the monitor.

mod load;
mod report;

use crate::harness::{Error, HTTPD, Machine, Native, Node, thread_seconds};
use crate::progress::Progress;
pub(crate) use report::Report;
use report::{Group, Turn};
use std::net::SocketAddr;
use std::time::Duration;

const SERVER: &[u8] = include_bytes!("../../../../guests/httpd/httpd.wasm");
/// Connections with one request outstanding each.
const CONNECTIONS: usize = 32;

/// Measures everything.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let (turns, length) = match quick {
        true => (2, Duration::from_secs(2)),
        false => (5, Duration::from_secs(4)),
    };
    let machine = Machine::of_this();
    let progress = Progress::new(2 * turns);
    let node = Node::start()?;
    let address = node.serve("httpd", SERVER)?;
    let mut skipped = Vec::new();
    let native = match Native::compile("httpd", &HTTPD)? {
        Ok(native) => {
            let (running, address) = native.serve()?;
            // The program lies in a folder that goes with it.
            Some((native, running, address))
        }
        Err(reason) => {
            skipped.push(reason);
            None
        }
    };
    let (mut processes, mut natives) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        if let Some((_, running, address)) = &native {
            progress.say("native".into());
            natives.push(turn(*address, running.pid(), length)?);
        }
        progress.step();
        progress.say("process".into());
        processes.push(turn(address, node.pid(), length)?);
        progress.step();
    }
    progress.finish();
    Ok(Report::new(&processes, &natives, skipped, machine))
}

/// One turn of one server.
fn turn(address: SocketAddr, pid: u32, length: Duration) -> Result<Turn, Error> {
    let failed = |error| Error::System {
        doing: "the server does not answer",
        error,
    };
    let mut load = load::Load::connect(address, CONNECTIONS).map_err(failed)?;
    load.run(length / 4).map_err(failed)?;
    let before = groups(pid);
    let (requests, seconds) = load.run(length).map_err(failed)?;
    let spent = groups(pid).into_iter().map(|(group, [user, kernel])| {
        let since = before.iter().find(|(other, _)| *other == group);
        let [user_before, kernel_before] = since.map_or([0.0; 2], |(_, seconds)| *seconds);
        (group, [user - user_before, kernel - kernel_before])
    });
    Ok(Turn {
        requests,
        seconds,
        spent: spent.collect(),
    })
}

/// CPU seconds by what threads do, in user mode and in the kernel.
fn groups(pid: u32) -> Vec<(Group, [f64; 2])> {
    let mut groups = Group::ALL.map(|group| (group, [0.0; 2])).to_vec();
    for (name, user, kernel) in thread_seconds(pid) {
        let group = Group::of_thread(&name);
        if let Some((_, [u, k])) = groups.iter_mut().find(|(other, _)| *other == group) {
            *u += user;
            *k += kernel;
        }
    }
    groups
}
