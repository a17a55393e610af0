//! Which share of one core endless loops of different weights get.

use super::endless;
use crate::harness::{Error, Node};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use std::collections::HashMap;
use std::thread;
use std::time::Duration;

/// Up to 100, so that no right to raise priorities is needed.
const WEIGHTS: [u32; 4] = [100, 80, 50, 33];
/// Before it counts: each must have its thread and its nice value.
const SETTLING: Duration = Duration::from_secs(1);

/// What one weight got.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Share {
    pub weight: u32,
    /// Its part of all weights.
    pub expected: f64,
    /// Its part of the time that all got.
    pub got: f64,
}

impl Share {
    /// How far it is off, relative to what it should be.
    pub fn error(&self) -> f64 {
        (self.got / self.expected - 1.0).abs()
    }
}

/// On one core, so that the question is one of sharing, not of placing.
pub(crate) fn measure(over: Duration) -> Result<Vec<Share>, Error> {
    let failed = |error: rustix::io::Errno| Error::System {
        doing: "cannot keep the node to one core",
        error: error.into(),
    };
    let all = sched_getaffinity(None).map_err(failed)?;
    let mut one = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu));
    one.set(first.unwrap_or_default());
    sched_setaffinity(None, &one).map_err(failed)?;
    // The node inherits it; this thread goes back to where it was.
    let node = Node::start();
    sched_setaffinity(None, &all).map_err(failed)?;
    let node = node?;
    let endless = endless()?;
    for weight in WEIGHTS {
        node.run(&format!("weight-{weight}"), &endless, Some(weight))?;
    }
    thread::sleep(SETTLING);
    let before = cpu_times(&node)?;
    thread::sleep(over);
    let after = cpu_times(&node)?;
    let used = |weight: u32| {
        let of = |times: &HashMap<u32, u64>| times.get(&weight).copied().unwrap_or_default();
        of(&after).saturating_sub(of(&before)) as f64
    };
    let all_used: f64 = WEIGHTS.iter().map(|weight| used(*weight)).sum();
    let all_weights: u32 = WEIGHTS.iter().sum();
    let share = |weight: u32| Share {
        weight,
        expected: f64::from(weight) / f64::from(all_weights),
        got: used(weight) / all_used,
    };
    Ok(WEIGHTS.map(share).to_vec())
}

fn cpu_times(node: &Node) -> Result<HashMap<u32, u64>, Error> {
    let times = node.processes()?.into_iter().map(|process| {
        let accounts = process.accounts;
        let time = accounts.cpu_user_ns + accounts.cpu_kernel_ns;
        (accounts.cpu_weight, time)
    });
    Ok(times.collect())
}
