//! Whether clients are still owed bytes that their connections have here.
//!
//! A process that has ended hears that its last bytes have arrived when the anchor has them. If the
//! anchor is to end with it, as of a program in the foreground, they must reach the clients first.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Counts connections whose client is owed something.
#[derive(Debug, Default)]
pub struct Owing {
    connections: AtomicUsize,
    none: Notify,
}

impl Owing {
    /// A connection owes its client something, or nothing more.
    pub fn change(&self, owes: bool) {
        if owes {
            self.connections.fetch_add(1, Ordering::SeqCst);
        } else if self.connections.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.none.notify_waiters();
        }
    }

    /// Waits until no client is owed anything.
    pub async fn none(&self) {
        loop {
            let mut none = std::pin::pin!(self.none.notified());
            none.as_mut().enable();
            if self.connections.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}
