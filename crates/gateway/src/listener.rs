//! How many connections are let in: a turnstile with a counter.

/// What becomes of a connection that a client has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is let in: make a [`crate::Connection`], and say [`Listener::left`] when it is closed.
    Accept,
    /// There are too many: close it at once.
    Refuse,
}

/// The anchor's side of one listener of a process.
#[derive(Clone, Debug)]
pub struct Listener {
    max_connections: usize,
    connections: usize,
}

impl Listener {
    /// Lets in up to `max_connections` at once.
    pub fn new(max_connections: usize) -> Listener {
        Listener {
            max_connections,
            connections: 0,
        }
    }

    /// A client has connected.
    pub fn arrived(&mut self) -> Admission {
        if self.connections >= self.max_connections {
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
        assert_eq!(listener.arrived(), Admission::Refuse);
    }
}
