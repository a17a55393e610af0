//! Moves a process: the source and target machines.
