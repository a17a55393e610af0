//! The simulated world: a seeded network and model processes that drive the deciding crates.
//!
//! Three hosts, each with a real [`node::Node`], on a network with delay, broken links and
//! partings, with disks that fail, clocks that run wrong and machines that crash and return. A
//! checker that knows the truth looks on ([`ledger`]). A failing seed is the bug report:
//!
//! ```text
//! LIMOSA_SIM_TRACE=1 cargo run -p limosa-sim --example sim -- SEED
//! ```
//!
//! prints one line per transition up to the violation.

mod chaos;
pub mod conditions;
pub mod host;
pub mod ledger;
mod machine;
pub mod network;
pub mod traffic;
mod world;

pub use chaos::{calm, run};
pub use world::{Report, Violation, World};

/// Happenings in the stormy phase of a usual run.
pub const STEPS: u64 = 20_000;
