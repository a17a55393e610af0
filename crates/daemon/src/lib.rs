//! The real world: sockets, links, disk, clock and threads.
