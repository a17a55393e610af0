//! Every figure of the specification.

mod catalogue;
pub mod demo;
mod density;
mod freeze;
mod harness;
mod overhead;
mod progress;
mod report;
mod start;
mod stats;

pub use catalogue::{BENCHES, Bench, Options, run};
