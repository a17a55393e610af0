//! What the node does before the machine runs out of memory.
//!
//! Each process has a limit, but all their limits together may be more than the machine has, since
//! most processes take a small part of what they may. When what is left falls below a reserve, the
//! node ends the process that has most, as the system would end the whole node: one that grows is
//! found before its neighbours notice. Nothing is ended while the node itself has less than the
//! reserve: then it is not the node that takes the memory.
//!
//! How often it looks follows from how fast memory could go (as in earlyoom): the less there is,
//! the sooner.

use crate::accounts::resident::{self, Resident};
use crate::core::Core;
use crate::processes::managed::{End, KILLED, Managed, Status};
use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The reserve is this part of all memory, but no more than [`MOST_RESERVED`] bytes.
const RESERVED_PART: u64 = 20;
const MOST_RESERVED: u64 = 1 << 30;
/// Programs write to new pages no faster than this, in bytes per second: several cores, by the
/// speed of clearing pages.
const FASTEST: u64 = 8 << 30;
/// Between two looks.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);
/// How long one that is killed may take until its memory is free. Then the next one is looked for.
const DYING: Duration = Duration::from_secs(2);

/// Memory for programs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What is left.
    pub available: u64,
}

impl Memory {
    fn reserve(&self) -> u64 {
        (self.total / RESERVED_PART).min(MOST_RESERVED)
    }

    /// It cannot be below the reserve before this has passed.
    fn pause(&self) -> Duration {
        let left = self.available.saturating_sub(self.reserve());
        let seconds = left as f64 / FASTEST as f64;
        Duration::from_secs_f64(seconds).clamp(SHORTEST, LONGEST)
    }
}

/// Tells what memory there is; none where nobody knows.
#[derive(Clone)]
pub struct MemorySource(pub Arc<dyn Fn() -> Option<Memory> + Send + Sync>);

impl std::fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemorySource")
    }
}

impl Default for MemorySource {
    /// The machine, and the control groups that this OS process is in: whichever leaves less.
    fn default() -> MemorySource {
        let groups = limited_groups();
        MemorySource(Arc::new(move || {
            let machine = std::fs::read_to_string("/proc/meminfo").ok();
            let machine = machine.as_deref().and_then(of_machine);
            let groups = groups.iter().filter_map(|group| of_group(group));
            groups
                .chain(machine)
                .min_by_key(|memory| memory.available.saturating_sub(memory.reserve()))
        }))
    }
}

impl MemorySource {
    /// What there is now.
    pub fn read(&self) -> Option<Memory> {
        (self.0)()
    }
}

/// Of the text of /proc/meminfo.
fn of_machine(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total: bytes("MemTotal:")?,
        available: bytes("MemAvailable:")?,
    })
}

/// The control group (version 2) of this OS process and those around it, as far as they have a
/// limit now.
fn limited_groups() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let root = Path::new("/sys/fs/cgroup");
    let groups = Path::new(own).ancestors().map(|group| root.join(group));
    groups.filter(|group| of_group(group).is_some()).collect()
}

/// None if it has no limit. File cache that the system can drop at once counts as available.
fn of_group(group: &Path) -> Option<Memory> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let total = number("memory.max")?;
    let used = number("memory.current")?;
    let stat = read("memory.stat")?;
    let cache = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "));
    let cache: u64 = cache?.trim().parse().ok()?;
    let available = total.saturating_sub(used.saturating_sub(cache));
    Some(Memory { total, available })
}

/// Looks after the machine's memory, for ever, or until nobody can tell what there is.
pub async fn guard(core: Arc<Core>) {
    while let Some(memory) = core.memory.read() {
        let own = resident::of_this_program().unwrap_or_default();
        if memory.available < memory.reserve() && own >= memory.reserve() {
            relieve(&core, memory).await;
        }
        sleep(memory.pause()).await;
    }
}

/// Ends the process that has most.
async fn relieve(core: &Arc<Core>, memory: Memory) {
    let processes = core.processes.all();
    // Looks at pages.
    let largest = tokio::task::spawn_blocking(move || largest(&processes)).await;
    let Ok(Some((bytes, largest))) = largest else {
        return;
    };
    let (available, process) = (memory.available >> 20, largest.id);
    tracing::warn!(%process, available_mib = available, has_mib = bytes >> 20,
        "the machine runs out of memory; the process that has most is ended");
    let reason = format!(
        "the node ran out of memory, and of its processes this one had most, {} MiB; give it a \
         limit with --memory, or run it on another node",
        bytes >> 20
    );
    core.processes.kill(&largest, End::killed(KILLED, &reason));
    let mut status = largest.status();
    let over = |status: &Status| matches!(status, Status::Ended(_) | Status::Moved(_));
    // It ends before its status says so, and takes its memory along.
    let _ = timeout(DYING, status.wait_for(over)).await;
}

/// The process with most bytes of memory and files, and how many these are.
fn largest(processes: &[Arc<Managed>]) -> Option<(u64, Arc<Managed>)> {
    let mut candidates: Vec<(u64, &Arc<Managed>)> = processes
        .iter()
        .filter(|process| !process.has_ended())
        .map(|process| (process.memory_bytes() + process.file_bytes(), process))
        .collect();
    // By what they have at most, so that the pages of few are looked at.
    candidates.sort_by_key(|(most, _)| Reverse(*most));
    let mut largest: Option<(u64, &Arc<Managed>)> = None;
    for (most, process) in candidates {
        if largest.is_some_and(|(bytes, _)| bytes >= most) {
            break;
        }
        let resident = process.resident().unwrap_or(Resident {
            bytes: process.memory_bytes(),
            private_bytes: process.memory_bytes(),
        });
        let bytes = resident.private_bytes + process.file_bytes();
        if largest.is_none_or(|(most, _)| bytes > most) {
            largest = Some((bytes, process));
        }
    }
    largest.map(|(bytes, process)| (bytes, process.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_less_there_is_the_sooner_it_looks() {
        let at = |available| Memory {
            total: 16 * GIB,
            available,
        };
        let reserve = at(0).reserve();
        assert_eq!(reserve, 16 * GIB / 20);
        assert_eq!(at(0).pause(), SHORTEST);
        assert_eq!(at(reserve).pause(), SHORTEST);
        assert_eq!(at(16 * GIB).pause(), LONGEST);
        let mut last = SHORTEST;
        for available in (reserve..16 * GIB).step_by(1 << 24) {
            let pause = at(available).pause();
            assert!(pause >= last);
            last = pause;
            // Taken as fast as can be, what is above the reserve lasts until the next look; less
            // than the shortest pause is what the reserve is for.
            let taken = pause.as_secs_f64() * FASTEST as f64;
            assert!(taken <= (available - reserve).max(FASTEST / 100) as f64 + 1.0);
        }
        let large = Memory {
            total: 1024 * GIB,
            available: GIB,
        };
        assert_eq!(large.reserve(), GIB);
    }

    #[test]
    fn what_the_system_tells_is_read() {
        let text = "MemTotal:       1000 kB\nMemFree:          10 kB\nMemAvailable:    500 kB\n";
        let memory = of_machine(text).unwrap();
        assert_eq!((memory.total, memory.available), (1_024_000, 512_000));
        for wrong in ["", "MemTotal: 5 kB\n", "MemTotal: 5\nMemAvailable: x kB\n"] {
            assert_eq!(of_machine(wrong), None, "{wrong}");
        }
        let group = tempfile::tempdir().unwrap();
        assert_eq!(of_group(group.path()), None);
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        write("memory.current", "800\n");
        write(
            "memory.stat",
            "anon 600\ninactive_file 150\nactive_file 50\n",
        );
        write("memory.max", "max\n");
        assert_eq!(of_group(group.path()), None);
        write("memory.max", "1000\n");
        let memory = of_group(group.path()).unwrap();
        assert_eq!((memory.total, memory.available), (1000, 350));
        let here = MemorySource::default().read().unwrap();
        assert!(0 < here.available && here.available <= here.total);
    }
}
