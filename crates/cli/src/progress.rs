//! Shows that something is going on when it takes longer than a moment.

use daemon::client::Client;
use indicatif::{ProgressBar, ProgressStyle};
use std::future::Future;
use std::io::IsTerminal;
use std::pin::pin;
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

/// Awaits the move of a process, while a terminal shows how far it is.
pub async fn during_move<T>(
    client: &Client,
    process: &str,
    message: &str,
    work: impl Future<Output = T>,
) -> T {
    /// How often it is asked, and how long an answer is waited for.
    const LOOK: Duration = Duration::from_millis(200);
    let mut work = pin!(work);
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let bar = ProgressBar::no_length().with_message(message.to_owned());
    let style = "{spinner} {msg}  {bar:30} {bytes} of {total_bytes}";
    let style = ProgressStyle::with_template(style);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + MOMENT, LOOK);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = looks.tick() => {}
        }
        // Between two nodes nobody can say.
        let info = tokio::time::timeout(LOOK, client.inspect(process)).await;
        if let Ok(Ok(info)) = info
            && let Some(moving) = info.moving
        {
            let round = match moving.rounds {
                0 => String::new(),
                round => format!(", round {round}"),
            };
            bar.set_message(format!("{message}: {}{round}", moving.phase));
            bar.set_length(moving.bytes);
            bar.set_position(moving.bytes.saturating_sub(moving.bytes_left));
        }
    };
    bar.finish_and_clear();
    result
}

/// The same for work that blocks.
pub fn while_waiting<T>(message: &str, work: impl FnOnce() -> T) -> T {
    let _waiting = Waiting::new(message);
    work()
}
