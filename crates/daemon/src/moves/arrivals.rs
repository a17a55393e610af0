//! Parts of moves towards this node, as they come over bulk links.
//!
//! Only what was agreed to is taken: from the source of a move, each part once, each within its
//! limit. At most one part waits for the move's task; the next stays in the connection. So a move
//! holds at most its limits in memory, however many links its source opens.

use crate::links::bulk;
use crate::links::transport::Secured;
use crate::store::images::MAX_IMAGE_BYTES;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use wire::control::Offer;
use wire::link::{BulkKind, Luggage};
use wire::{MoveId, NodeId};

/// Bytes that a snapshot may have beyond the memory: files, streams, frames.
const MAX_BESIDE_MEMORY: u64 = 4 << 30;
/// Bytes of the luggage, encoded: most of it says what was left out of the files.
pub const MAX_LUGGAGE: u64 = 5 << 20;
const MAX_LOG: u64 = 1 << 20;

/// What may arrive.
#[derive(Default)]
pub struct Arrivals {
    expected: Mutex<HashMap<MoveId, Expected>>,
}

struct Expected {
    from: NodeId,
    snapshot_limit: u64,
    /// What has not come yet.
    missing: Vec<BulkKind>,
    parts: mpsc::Sender<Arrived>,
}

/// A part, whole.
#[derive(Debug)]
pub enum Arrived {
    /// The module.
    Image(Vec<u8>),
    /// What the node knows of the process.
    Luggage(Luggage),
    /// The snapshot's bytes.
    Snapshot(Vec<u8>),
    /// Frames of the log.
    Log(Vec<u8>),
    /// The log file.
    LogText(Vec<u8>),
    /// Nothing more will come; why.
    Failed(String),
}

impl Arrivals {
    fn expected(&self) -> MutexGuard<'_, HashMap<MoveId, Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the parts of this move are taken from this node.
    pub fn expect(
        &self,
        id: MoveId,
        from: NodeId,
        offer: &Offer,
        need_image: bool,
    ) -> mpsc::Receiver<Arrived> {
        use BulkKind::{Image, Log, LogText, Luggage, Snapshot};
        let (sender, receiver) = mpsc::channel(1);
        let mut missing = vec![Luggage, Snapshot, Log, LogText];
        missing.extend(need_image.then_some(Image));
        let expected = Expected {
            from,
            snapshot_limit: offer.memory_bytes.saturating_add(MAX_BESIDE_MEMORY),
            missing,
            parts: sender,
        };
        self.expected().insert(id, expected);
        receiver
    }

    /// Nothing more of this move is taken.
    pub fn forget(&self, id: MoveId) {
        self.expected().remove(&id);
    }

    /// Whether a part may come, how many bytes of it, and where it goes. From now on it may not
    /// come again.
    fn admit(
        &self,
        id: MoveId,
        from: NodeId,
        what: BulkKind,
    ) -> Result<(u64, mpsc::Sender<Arrived>), &'static str> {
        let mut all = self.expected();
        let expected = all.get_mut(&id).filter(|expected| expected.from == from);
        let expected = expected.ok_or("bytes for no move")?;
        let place = expected.missing.iter().position(|missing| *missing == what);
        expected
            .missing
            .swap_remove(place.ok_or("a part that was not asked for, or comes again")?);
        let limit = match what {
            BulkKind::Image => MAX_IMAGE_BYTES,
            BulkKind::Snapshot => expected.snapshot_limit,
            BulkKind::Luggage => MAX_LUGGAGE,
            BulkKind::Log => MAX_LOG,
            BulkKind::LogText => crate::processes::log::TEXT_BYTES,
        };
        Ok((limit, expected.parts.clone()))
    }

    /// Serves a bulk link that a member has opened.
    pub async fn serve(&self, peer: NodeId, mut link: Secured) {
        let mut last: Option<mpsc::Sender<Arrived>> = None;
        loop {
            let header = match bulk::next_header(&mut link).await {
                Ok(Some(header)) => header,
                closed => {
                    let reason = match closed {
                        Err(error) => error.to_string(),
                        Ok(_) => "the source has closed it".to_owned(),
                    };
                    tracing::debug!(node = %peer.short(), reason, "bulk link closed");
                    // Nothing more comes; whoever waits for it must know.
                    if let Some(parts) = last {
                        let failed = Arrived::Failed(format!("the transfer broke: {reason}"));
                        let _ = parts.send(failed).await;
                    }
                    return;
                }
            };
            let (limit, parts) = match self.admit(header.id, peer, header.what) {
                Ok(admitted) => admitted,
                Err(reason) => {
                    tracing::info!(node = %peer.short(), id = %header.id, reason, "link closed");
                    return;
                }
            };
            let part = bulk::read_part(&mut link, header.length, limit).await;
            let arrived = part
                .map_err(|error| format!("the transfer broke: {error}"))
                .and_then(|bytes| arrived(header.what, bytes));
            let failed = arrived.is_err();
            // A move that is over is not interested any more.
            let _ = parts.send(arrived.unwrap_or_else(Arrived::Failed)).await;
            if failed {
                return;
            }
            last = Some(parts);
        }
    }
}

fn arrived(what: BulkKind, bytes: Vec<u8>) -> Result<Arrived, String> {
    Ok(match what {
        BulkKind::Image => Arrived::Image(bytes),
        BulkKind::Snapshot => Arrived::Snapshot(bytes),
        BulkKind::Luggage => {
            Arrived::Luggage(wire::link::decode(&bytes).map_err(|error| error.to_string())?)
        }
        BulkKind::Log => Arrived::Log(bytes),
        BulkKind::LogText => Arrived::LogText(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{ArtefactId, Epoch, ImageId, ProcessId};

    const MOVE: MoveId = MoveId(7);
    const SOURCE: NodeId = NodeId([1; 32]);

    fn expecting(need_image: bool) -> (Arrivals, mpsc::Receiver<Arrived>) {
        let offer = Offer {
            process: ProcessId(1),
            name: "p".to_owned(),
            image: ImageId::default(),
            artefact: ArtefactId::default(),
            epoch: Epoch(1),
            attempt: 1,
            memory_bytes: 100,
            volumes: Vec::new(),
        };
        let arrivals = Arrivals::default();
        let parts = arrivals.expect(MOVE, SOURCE, &offer, need_image);
        (arrivals, parts)
    }

    #[test]
    fn each_part_of_a_move_is_taken_once_whatever_links_its_source_opens() {
        use BulkKind::{Image, Log, LogText, Luggage, Snapshot};
        let (arrivals, _parts) = expecting(true);
        for what in [Image, Luggage, Snapshot, Log, LogText] {
            let (limit, _) = arrivals.admit(MOVE, SOURCE, what).unwrap();
            assert!(limit < 1 << 33, "{what:?}");
            assert!(arrivals.admit(MOVE, SOURCE, what).is_err(), "{what:?}");
        }
    }

    #[test]
    fn nothing_is_taken_that_was_not_asked_for() {
        let (arrivals, _parts) = expecting(false);
        let refused = |id, from, what| arrivals.admit(id, from, what).is_err();
        assert!(refused(MOVE, SOURCE, BulkKind::Image));
        assert!(refused(MOVE, NodeId([2; 32]), BulkKind::Snapshot));
        assert!(refused(MoveId(8), SOURCE, BulkKind::Snapshot));
        arrivals.forget(MOVE);
        assert!(refused(MOVE, SOURCE, BulkKind::Snapshot));
    }

    #[test]
    fn one_part_waits_and_no_more() {
        let (arrivals, _parts) = expecting(false);
        let (_, parts) = arrivals.admit(MOVE, SOURCE, BulkKind::Luggage).unwrap();
        parts.try_send(Arrived::Log(Vec::new())).unwrap();
        parts.try_send(Arrived::Log(Vec::new())).unwrap_err();
    }
}
