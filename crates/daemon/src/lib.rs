//! The real world: sockets, links, disk, clock and threads.
//!
//! A daemon is one node. Its parts, and who owns what:
//!
//! - [`node_loop`]: the one owner of the node's decisions ([`node::Node`]); one task;
//! - [`links`]: connections between nodes; [`switch`]: stream frames between them;
//! - [`executor`]: many processes on a few threads; [`accounts`]: what they and the node consume;
//! - [`processes`]: the processes of this node; [`moves`]: the world's part in moving them;
//! - [`memory`]: what the node does before the machine runs out of it;
//! - [`anchors`]: clients' connections;
//! - [`store`], [`state_dir`]: what is on disk;
//! - [`api`]: the HTTP API; [`client`]: the same as typed calls;
//! - [`local`]: a program in the foreground, without any of this but its process and anchors;
//!   [`torture`]: the same, frozen at random places.

pub mod accounts;
pub mod anchors;
pub mod api;
pub mod client;
pub mod core;
pub mod executor;
pub mod fleet;
pub mod links;
pub mod listener;
pub mod loader;
pub mod local;
pub mod memory;
pub mod moves;
pub mod node_loop;
pub mod processes;
pub mod run;
pub mod state_dir;
pub mod store;
pub mod switch;
pub mod torture;

pub use api::{MAX_CHECKPOINT_BYTES, MAX_FILES_BYTES};
pub use processes::idle::FOLD_AFTER;
pub use run::{DEFAULT_LISTEN, NodeConfig, Progress, Ready, RunError, run_node, socket_path};
pub use store::images::MAX_IMAGE_BYTES;
