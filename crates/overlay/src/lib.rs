//! Who is alive and who is where: membership and directory logic.
//!
//! Both are plain structs that are told what happened and when; they open no socket and read no
//! clock.

pub mod directory;
pub mod membership;
