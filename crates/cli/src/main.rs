//! The `limosa` command.
fn main() {}
