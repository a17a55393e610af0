//! Decides for one connection: find the process, open, forward, hold while its owner is away, close.
//!
//! A client's connection ends at its anchor, and the bytes run over a stream to wherever the process
//! is. This crate decides what the anchor does with them; it carries nothing, asks nobody and has no
//! clock. The world (`daemon`, `sim`) tells it what happened and when, carries out its effects, and
//! calls again at the time that `poll_timeout` names.
//!
//! - [`Connection`]: one client connection, for raw TCP. Its states are drawn in its module.
//! - [`Listener`]: how many connections are let in.
//! - [`Policy`]: where a process may connect to.

mod connection;
mod listener;
mod policy;
mod search;

pub use connection::{Close, Config, Connection, Effect, Ended, Event, Held, Report, State};
pub use listener::{Admission, Listener};
pub use policy::Policy;
