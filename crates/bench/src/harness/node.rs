//! A node with processes, for benches of what clients see.

use super::Error;
use crate::demo::fleet::Fleet;
use daemon::client::{Client, ClientError};
use std::net::SocketAddr;
use std::path::Path;
use tokio::runtime::Runtime;
use wire::api::{ListenSpec, ProcessInfo, RunSpec};

/// A node that is an OS process of its own, and ends with this.
pub(crate) struct Node {
    fleet: Fleet,
    client: Client,
    runtime: Runtime,
}

fn failed(doing: &'static str, reason: impl std::fmt::Display) -> Error {
    Error::System {
        doing,
        error: std::io::Error::other(reason.to_string()),
    }
}

impl Node {
    /// Starts one, of this very program.
    pub fn start() -> Result<Node, Error> {
        let doing = "cannot start a node";
        let program = std::env::current_exe().map_err(|error| failed(doing, error))?;
        let fleet = Fleet::start(&program, &["bench"]).map_err(|error| failed(doing, error))?;
        let socket = fleet.first().map(|node| node.socket.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Ok(Node {
            client: Client::new(socket.as_deref().unwrap_or(Path::new(""))),
            runtime: runtime.map_err(|error| failed(doing, error))?,
            fleet,
        })
    }

    /// The number of its OS process.
    pub fn pid(&self) -> u32 {
        self.fleet.pids().first().copied().unwrap_or_default()
    }

    fn ask<T>(
        &self,
        doing: &'static str,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Error> {
        self.runtime
            .block_on(answer)
            .map_err(|error| failed(doing, error))
    }

    /// Runs a program with this CPU weight.
    pub fn run(&self, name: &str, wasm: &[u8], weight: Option<u32>) -> Result<(), Error> {
        let spec = RunSpec {
            name: Some(name.to_owned()),
            args: vec![name.to_owned()],
            cpu_weight: weight,
            ..RunSpec::default()
        };
        self.ask("cannot run a program", self.client.run(&spec, &[], wasm))?;
        Ok(())
    }

    /// Runs a server; returns where it listens.
    pub fn serve(&self, name: &str, wasm: &[u8]) -> Result<SocketAddr, Error> {
        let doing = "cannot run a server";
        let spec = RunSpec {
            name: Some(name.to_owned()),
            args: vec![name.to_owned()],
            listen: vec![ListenSpec {
                address: "127.0.0.1:0".to_owned(),
                name: "main".to_owned(),
            }],
            ..RunSpec::default()
        };
        let info = self.ask(doing, self.client.run(&spec, &[], wasm))?;
        let address = info
            .listeners
            .first()
            .and_then(|listener| listener.address.parse().ok());
        address.ok_or_else(|| failed(doing, "it has no listener"))
    }

    /// What it runs, with accounts.
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, Error> {
        self.ask("cannot list processes", self.client.processes(true))
    }
}
