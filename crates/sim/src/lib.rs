//! The simulated world: a seeded network and model processes that drive the deciding crates.
