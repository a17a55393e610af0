//! How many connections are let in: a turnstile with a counter.
//!
//! Beside its own bound, a listener gets no more than what is left for all listeners together. So
//! one that is flooded takes half of all, two a third each, and there is always room for the next
//! (the *dynamic threshold* of shared-memory switches: Choudhury and Hahne, 1998).

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

    /// A client has connected, and so many more would find room at all listeners together.
    pub fn arrived(&mut self, room: usize) -> Admission {
        if self.connections >= self.max_connections.min(room) {
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
        assert_eq!(listener.arrived(100), Admission::Accept);
        assert_eq!(listener.arrived(100), Admission::Accept);
        assert_eq!(listener.arrived(100), Admission::Refuse);
        listener.left();
        assert_eq!(listener.arrived(100), Admission::Accept);
        assert_eq!(listener.arrived(100), Admission::Refuse);
    }

    #[test]
    fn floods_share_what_there_is_and_leave_room_for_others() {
        const ALL: usize = 600;
        for floods in 1..=5 {
            let mut listeners = vec![Listener::new(1000); floods];
            let taken = |listeners: &[Listener]| -> usize {
                listeners.iter().map(|listener| listener.connections).sum()
            };
            for number in 0..10 * ALL {
                let room = ALL - taken(&listeners);
                listeners[number % floods].arrived(room);
            }
            for listener in &listeners {
                let share = ALL / (floods + 1);
                assert!(listener.connections.abs_diff(share) <= 1, "{listeners:?}");
            }
            let left = ALL - taken(&listeners);
            assert_eq!(Listener::new(1000).arrived(left), Admission::Accept);
        }
    }
}
