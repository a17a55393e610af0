//! Signals that ask a command to end.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for such a signal and returns the exit code that tells of it: 128 and its number.
pub async fn asked_to_end() -> u8 {
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // A signal that cannot be waited for ends the process as it always did.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => 130,
        () = wait(SignalKind::terminate()) => 143,
        () = wait(SignalKind::hangup()) => 129,
    }
}
