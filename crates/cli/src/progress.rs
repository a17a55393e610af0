//! Shows that something is going on when it takes longer than a moment.

use indicatif::ProgressBar;
use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

/// What is done before this needs no words.
const MOMENT: Duration = Duration::from_millis(300);

/// Awaits `work`; a spinner with `message` appears on a terminal's standard error if it takes
/// longer than a moment, and disappears when it is done.
pub async fn during<T>(message: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(MOMENT) => {}
    }
    let bar = ProgressBar::new_spinner().with_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let done = work.await;
    bar.finish_and_clear();
    done
}
