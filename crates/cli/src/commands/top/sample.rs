//! What the nodes say at one instant, and what happened between two.

use crate::output;
use daemon::client::{Client, ClientError};
use std::collections::HashMap;
use std::time::Instant;
use wire::ProcessId;
use wire::api::{NodeAccounts, NodeState, ProcessAccounts, ProcessInfo, ProcessState};

/// What the nodes say.
pub struct Sample {
    /// When.
    pub at: Instant,
    /// The nodes that answer.
    pub nodes: Vec<NodeAccounts>,
    /// All processes that have not ended.
    pub processes: Vec<ProcessInfo>,
}

impl Sample {
    /// Asks.
    pub async fn take(client: &Client) -> Result<Sample, ClientError> {
        let mut processes = client.processes(false).await?;
        processes.retain(|process| process.state != ProcessState::Exited);
        let mut nodes = Vec::new();
        for node in client.nodes().await? {
            // One that does not answer now is missed by its processes, too.
            if node.state == NodeState::Alive
                && let Ok(accounts) = client.node_accounts(&node.id.to_string()).await
            {
                nodes.push(accounts);
            }
        }
        Ok(Sample {
            at: Instant::now(),
            nodes,
            processes,
        })
    }
}

/// A process over an interval.
#[derive(Clone, Debug)]
pub struct Row {
    /// As it is now.
    pub process: ProcessInfo,
    /// Of one core.
    pub cpu_percent: f64,
    /// Times per second that it waited, and that it was interrupted.
    pub switches_per_second: [f64; 2],
    /// Bytes per second, of all devices.
    pub bytes_per_second: f64,
}

impl Row {
    /// CPU time since it was born, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        cpu_ns(&self.process.accounts)
    }

    /// As it is shown; the headings are the view's.
    pub fn cells(&self) -> [String; 11] {
        let process = &self.process;
        let [voluntary, involuntary] = self.switches_per_second;
        [
            process.name.clone(),
            process.node_name.clone(),
            format!("{:?}", process.state).to_lowercase(),
            format!("{:.1}", self.cpu_percent),
            cpu_time(self.cpu_ns()),
            process.accounts.cpu_weight.to_string(),
            output::bytes(process.memory_bytes),
            format!("{voluntary:.0}+{involuntary:.0}"),
            format!("{}/s", output::bytes(self.bytes_per_second as u64)),
            process.connections.to_string(),
            process.moves.to_string(),
        ]
    }
}

fn cpu_ns(accounts: &ProcessAccounts) -> u64 {
    accounts.cpu_user_ns.saturating_add(accounts.cpu_kernel_ns)
}

/// Seconds with a fraction, or minutes and seconds, or hours and minutes.
fn cpu_time(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    match seconds {
        0..60 => format!("{:.2}s", nanoseconds as f64 / 1e9),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
    }
}

fn bytes(accounts: &ProcessAccounts) -> u64 {
    let devices = [&accounts.stdio, &accounts.files, &accounts.sockets];
    let bytes = devices.map(|device| device.read_bytes.saturating_add(device.written_bytes));
    bytes.iter().sum()
}

/// The processes of the second sample, with what happened since the first.
pub fn rows(first: &Sample, second: &Sample) -> Vec<Row> {
    let before: HashMap<ProcessId, &ProcessInfo> =
        first.processes.iter().map(|info| (info.id, info)).collect();
    let seconds = second.at.saturating_duration_since(first.at).as_secs_f64();
    let row = |process: &ProcessInfo| {
        let now = &process.accounts;
        // One that is new, or counts anew at another node, begins here.
        let before = before
            .get(&process.id)
            .filter(|before| before.node == process.node);
        let before = before.map_or(now, |before| &before.accounts);
        let rate = |of: fn(&ProcessAccounts) -> u64| match seconds > 0.0 {
            true => of(now).saturating_sub(of(before)) as f64 / seconds,
            false => 0.0,
        };
        Row {
            process: process.clone(),
            cpu_percent: rate(cpu_ns) / 1e9 * 100.0,
            switches_per_second: [
                rate(|accounts| accounts.voluntary_switches),
                rate(|accounts| accounts.involuntary_switches),
            ],
            bytes_per_second: rate(bytes),
        }
    };
    second.processes.iter().map(row).collect()
}
