//! The contributor's command.
fn main() {}
