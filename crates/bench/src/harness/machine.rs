//! What the figures were measured on.

use serde::Serialize;
use std::fs;

/// The machine, for the record beside the figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Architecture.
    pub arch: &'static str,
    /// Operating system and its version.
    pub system: String,
    /// Mean number of runnable threads of the last minute: much above 0 means a busy machine.
    pub load: Option<f64>,
}

impl Machine {
    /// Of this machine, now.
    pub fn of_this() -> Machine {
        let name = rustix::system::uname();
        let load = fs::read_to_string("/proc/loadavg").ok();
        Machine {
            cpu: cpu_name().unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            arch: std::env::consts::ARCH,
            system: format!(
                "{} {}",
                name.sysname().to_string_lossy(),
                name.release().to_string_lossy()
            ),
            load: load.and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let load = match self.load {
            Some(load) => format!(", load {load:.1}"),
            None => String::new(),
        };
        format!(
            "{} × {}, {}, {}{load}",
            self.cores, self.cpu, self.arch, self.system
        )
    }
}

fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
