//! Shows that something is going on when it takes longer than a moment.

use indicatif::ProgressBar;
use std::future::Future;
use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is done before this needs no words.
const MOMENT: Duration = Duration::from_millis(300);

/// As long as this lives, and once it has lived for a moment, a terminal's standard error shows a
/// spinner and what is waited for.
#[derive(Debug, Default)]
pub struct Waiting(Option<(Sender<()>, JoinHandle<()>)>);

impl Waiting {
    /// Begins to wait. Where standard error is no terminal, nothing is ever shown.
    pub fn new(message: &str) -> Waiting {
        if !std::io::stderr().is_terminal() {
            return Waiting(None);
        }
        let message = message.to_owned();
        let (alive, ended) = mpsc::channel();
        let show = move || {
            if ended.recv_timeout(MOMENT) == Err(RecvTimeoutError::Timeout) {
                let bar = ProgressBar::new_spinner().with_message(message);
                bar.enable_steady_tick(Duration::from_millis(100));
                // Ends when the sender goes.
                let _ = ended.recv();
                bar.finish_and_clear();
            }
        };
        let thread = std::thread::Builder::new().name("spinner".to_owned());
        // Without a thread it is only not shown.
        Waiting(thread.spawn(show).ok().map(|thread| (alive, thread)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((alive, thread)) = self.0.take() {
            drop(alive);
            // Whatever is printed next finds the line empty.
            let _ = thread.join();
        }
    }
}

/// Awaits `work` while the message is shown.
pub async fn during<T>(message: &str, work: impl Future<Output = T>) -> T {
    let _waiting = Waiting::new(message);
    work.await
}

/// The same for work that blocks.
pub fn while_waiting<T>(message: &str, work: impl FnOnce() -> T) -> T {
    let _waiting = Waiting::new(message);
    work()
}
