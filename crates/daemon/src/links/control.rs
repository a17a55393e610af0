//! The control link to one member: small messages, in order, both ways.

use super::transport::{self, Secured, read_frame};
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use wire::control::Control;
use wire::link::{MAX_CONTROL, decode, write_frame};

/// Messages that may wait to be written; a peer that lets so many wait is not reading.
const WAITING: usize = 4096;
/// Messages written at once.
const BATCH: usize = 64;

/// A running control link. Dropping it closes the connection.
#[derive(Debug)]
pub struct ControlLink {
    queue: mpsc::Sender<Control>,
    task: AbortHandle,
}

/// The link's queue is full or its connection is gone; it should be dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not read its control link")]
pub struct Stuck;

impl ControlLink {
    /// Runs a link. `heard` takes each message; it waits where the node cannot keep up, and then
    /// the peer does. `closed` is called once, with the reason, if the connection ends by itself.
    pub fn start<F: Future<Output = ()> + Send>(
        stream: Secured,
        mut heard: impl FnMut(Control) -> F + Send + 'static,
        closed: impl FnOnce(String) + Send + 'static,
    ) -> ControlLink {
        let (queue, mut waiting) = mpsc::channel(WAITING);
        let task = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let read = async {
                while let Some(message) = read_frame(&mut reader, MAX_CONTROL).await? {
                    let message = decode(&message).map_err(io::Error::other)?;
                    heard(message).await;
                }
                Ok::<(), io::Error>(())
            };
            let write = async {
                let (mut batch, mut bytes) = (Vec::new(), Vec::new());
                while waiting.recv_many(&mut batch, BATCH).await > 0 {
                    bytes.clear();
                    for message in batch.drain(..) {
                        if let Err(error) = write_frame(&message, MAX_CONTROL, &mut bytes) {
                            tracing::error!(%error, "a control message cannot be sent");
                        }
                    }
                    writer.write_all(&bytes).await?;
                    writer.flush().await?;
                }
                Ok::<(), io::Error>(())
            };
            let result = tokio::select! {
                result = read => result,
                result = write => result,
            };
            closed(transport::reason(result));
        });
        ControlLink {
            queue,
            task: task.abort_handle(),
        }
    }

    /// Queues a message.
    pub fn send(&self, message: Control) -> Result<(), Stuck> {
        self.queue.try_send(message).map_err(|_| Stuck)
    }
}

impl Drop for ControlLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}
