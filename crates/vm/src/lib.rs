//! The process VM: start, run, freeze and thaw one process.
