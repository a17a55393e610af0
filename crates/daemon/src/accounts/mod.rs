//! What processes and the node have consumed.
//!
//! - [`load`]: load averages; [`parallelism`]: how many run at once, and how many cores that
//!   advises;
//! - [`resident`]: which pages of a process are in memory.
//!
//! A process's own accounts are kept by the process VM (`vm::Meter`), whoever runs it.

pub mod load;
pub mod parallelism;
pub mod resident;

use crate::executor::weight::Weight;
use crate::executor::{Executor, usage};
use vm::{Accounts, Meter, Traffic};
use wire::NodeId;
use wire::api::{DeviceAccounts, NodeAccounts, ProcessAccounts};

/// The accounts of a process, for the API: up to this moment, also of one that has been computing
/// for long.
pub fn of_process(meter: &Meter, weight: Weight) -> ProcessAccounts {
    let Accounts {
        cpu_ns,
        kernel_ns,
        voluntary_switches,
        involuntary_switches,
        minor_faults,
        major_faults,
        stdio,
        files,
        sockets,
        clock_reads,
        freezes: _,
        folds: _,
        memory_bytes: _,
        file_bytes,
    } = meter.read();
    ProcessAccounts {
        cpu_user_ns: cpu_ns.saturating_sub(kernel_ns) + under_way(meter),
        cpu_kernel_ns: kernel_ns,
        cpu_weight: weight.get().into(),
        voluntary_switches,
        involuntary_switches,
        minor_faults,
        major_faults,
        resident_bytes: None,
        private_bytes: None,
        file_bytes,
        stdio: device(stdio),
        files: device(files),
        sockets: device(sockets),
        clock_reads,
    }
}

/// What the poll that is under way has used, in nanoseconds. How it divides is known at its end.
fn under_way(meter: &Meter) -> u64 {
    let Some(running) = meter.running() else {
        return 0;
    };
    let now = usage::cpu_ns_of(running.thread);
    // Still the same poll: else its time is in the accounts already, or another's is in `now`.
    if meter.running() != Some(running) {
        return 0;
    }
    now.map_or(0, |now| now.saturating_sub(running.began_at_ns))
}

fn device(traffic: Traffic) -> DeviceAccounts {
    let Traffic {
        reads,
        read_bytes,
        writes,
        written_bytes,
    } = traffic;
    DeviceAccounts {
        reads,
        read_bytes,
        writes,
        written_bytes,
    }
}

/// What a node consumes and is doing.
pub fn of_node(executor: &Executor, node: NodeId, name: String, processes: u64) -> NodeAccounts {
    let activity = executor.activity();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let [cpu_user_ns, cpu_kernel_ns] = usage::of_all();
    NodeAccounts {
        node,
        name,
        cores: cores as u64,
        processes,
        threads: activity.threads as u64,
        workers: activity.workers as u64,
        detached: activity.detached as u64,
        running: activity.running as u64,
        waiting: activity.ready as u64,
        load: activity.load,
        parallelism: activity.parallelism,
        advised_cores: parallelism::advised_cores(activity.parallelism),
        polls: activity.polls,
        handovers: activity.handovers,
        preemptive_freezes: activity.asked_to_yield,
        cpu_user_ns,
        cpu_kernel_ns,
        resident_bytes: resident::of_this_program().unwrap_or_default(),
    }
}
