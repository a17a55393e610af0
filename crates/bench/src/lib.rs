//! Every figure of the specification.

mod catalogue;
pub mod demo;
mod density;
mod fairness;
mod freeze;
mod harness;
mod io;
mod migrate;
mod overhead;
mod progress;
mod report;
mod start;
mod stats;
mod switch;

pub use catalogue::{BENCHES, Bench, Options, run};
