//! The control link to one member: small messages, in order, both ways.

use super::transport::{self, Secured, read_frame};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use wire::control::Control;
use wire::link::{MAX_CONTROL, decode, write_frame};

/// Bytes that may wait to be written; a peer that lets so many wait is not reading.
const MAX_WAITING: usize = 16 << 20;

/// A running control link. Dropping it closes the connection.
#[derive(Debug)]
pub struct ControlLink {
    out: Arc<Out>,
    task: AbortHandle,
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
struct Out {
    waiting: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Out {
    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: &Control) -> Result<(), Stuck> {
        let mut waiting = self.waiting();
        let empty = waiting.is_empty();
        if let Err(error) = write_frame(message, MAX_CONTROL, &mut waiting) {
            tracing::error!(%error, "a control message cannot be sent");
        }
        if waiting.len() > MAX_WAITING {
            return Err(Stuck);
        }
        drop(waiting);
        if empty {
            self.filled.notify_one();
        }
        Ok(())
    }
}

/// The peer lets too much wait; the link should be dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not read its control link")]
pub struct Stuck;

impl ControlLink {
    /// Runs a link. `heard` takes each message and its length in bytes; it waits where the node
    /// cannot keep up, and then the peer does. `closed` is called once, with the reason, if the
    /// connection ends by itself.
    pub fn start<F: Future<Output = ()> + Send>(
        stream: Secured,
        mut heard: impl FnMut(Control, usize) -> F + Send + 'static,
        closed: impl FnOnce(String) + Send + 'static,
    ) -> ControlLink {
        let out = Arc::new(Out::default());
        let source = out.clone();
        let task = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let read = async {
                while let Some(message) = read_frame(&mut reader, MAX_CONTROL).await? {
                    let length = message.len();
                    let message = decode(&message).map_err(io::Error::other)?;
                    heard(message, length).await;
                }
                Ok::<(), io::Error>(())
            };
            let write = async {
                loop {
                    let bytes = std::mem::take(&mut *source.waiting());
                    if bytes.is_empty() {
                        source.filled.notified().await;
                        continue;
                    }
                    writer.write_all(&bytes).await?;
                    writer.flush().await?;
                }
            };
            let result: io::Result<()> = tokio::select! {
                result = read => result,
                result = write => result,
            };
            closed(transport::reason(result));
        });
        ControlLink {
            out,
            task: task.abort_handle(),
        }
    }

    /// Queues a message.
    pub fn send(&self, message: &Control) -> Result<(), Stuck> {
        self.out.push(message)
    }
}

impl Drop for ControlLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::NodeId;
    use wire::control::Member;

    #[test]
    fn what_waits_for_a_peer_that_does_not_read_is_bounded_in_bytes() {
        let out = Out::default();
        let member = Member {
            node: NodeId([1; 32]),
            name: "n".repeat(255),
            address: "a".repeat(255),
            incarnation: 1,
        };
        let message = Control::Members(vec![member; 1024]);
        let sent = (0..1000).take_while(|_| out.push(&message).is_ok()).count();
        assert!(sent > 10, "{sent}");
        assert!(out.waiting().len() <= MAX_WAITING + MAX_CONTROL);
    }
}
