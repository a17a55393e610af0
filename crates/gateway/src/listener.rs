//! How many connections are let in: a turnstile with a counter.

/// What becomes of a connection that a client has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is let in: make a [`crate::Connection`], and say [`Listener::left`] when it is closed.
    Accept,
    /// There are too many: close it at once.
    Refuse,
    /// The process is gone: close it, and the listener.
    Shut,
}

/// The anchor's side of one listener of a process.
#[derive(Clone, Debug)]
pub struct Listener {
    max_connections: usize,
    connections: usize,
    refused: u64,
    shut: bool,
}

impl Listener {
    /// Lets in up to `max_connections` at once.
    pub fn new(max_connections: usize) -> Listener {
        Listener {
            max_connections,
            connections: 0,
            refused: 0,
            shut: false,
        }
    }

    /// A client has connected.
    pub fn arrived(&mut self) -> Admission {
        if self.shut {
            return Admission::Shut;
        }
        if self.connections >= self.max_connections {
            self.refused += 1;
            return Admission::Refuse;
        }
        self.connections += 1;
        Admission::Accept
    }

    /// A connection that was let in is closed.
    pub fn left(&mut self) {
        debug_assert!(
            self.connections > 0,
            "more connections left than were let in"
        );
        self.connections = self.connections.saturating_sub(1);
    }

    /// The process is gone: nothing is let in any more.
    pub fn shut(&mut self) {
        self.shut = true;
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// Connections that were refused because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lets_in_as_many_as_it_may_and_more_when_one_leaves() {
        let mut listener = Listener::new(2);
        assert_eq!(listener.arrived(), Admission::Accept);
        assert_eq!(listener.arrived(), Admission::Accept);
        assert_eq!(listener.arrived(), Admission::Refuse);
        listener.left();
        assert_eq!(listener.arrived(), Admission::Accept);
        assert_eq!((listener.connections(), listener.refused()), (2, 1));
        listener.shut();
        assert_eq!(listener.arrived(), Admission::Shut);
    }
}
