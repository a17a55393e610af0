//! Parts of moves towards this node, as they come over bulk links.
//!
//! Only what was agreed to is taken: from the source of a move, each part once, each within its
//! limit. At most one part waits for the move's task; the next stays in the connection. So a move
//! holds at most its limits in memory, however many links its source opens. Pages of memory come as
//! often as the source likes, until the snapshot; each part is written at once where it belongs.

use super::pages::{Ground, Lander};
use crate::links::bulk;
use crate::links::transport::Secured;
use crate::store::images::MAX_IMAGE_BYTES;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use wire::link::{BulkKind, Luggage};
use wire::pages::MAX_PART_BYTES;
use wire::{MoveId, NodeId};

/// Bytes that a snapshot may have, whose memory comes as pages: files, streams, frames.
const MAX_SNAPSHOT: u64 = 4 << 30;
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
    /// What has not come yet.
    missing: Vec<BulkKind>,
    /// Where its memory lands, once the image is there and until the snapshot comes.
    ground: Option<Ground>,
    parts: mpsc::Sender<Arrived>,
}

/// What becomes of a part that may come.
enum Admitted {
    /// It is kept whole, if it has at most so many bytes.
    Whole(u64),
    /// It is written there.
    Lands(Ground),
    /// It is answered.
    Marks,
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
    pub fn expect(&self, id: MoveId, from: NodeId, need_image: bool) -> mpsc::Receiver<Arrived> {
        use BulkKind::{Image, Log, LogText, Luggage, Snapshot};
        let (sender, receiver) = mpsc::channel(1);
        let mut missing = vec![Luggage, Snapshot, Log, LogText];
        missing.extend(need_image.then_some(Image));
        let expected = Expected {
            from,
            missing,
            ground: None,
            parts: sender,
        };
        self.expected().insert(id, expected);
        receiver
    }

    /// From now on the memory of the process lands there.
    pub fn prepare(&self, id: MoveId, ground: Ground) {
        if let Some(expected) = self.expected().get_mut(&id) {
            expected.ground = Some(ground);
        }
    }

    /// Nothing more of this move is taken.
    pub fn forget(&self, id: MoveId) {
        self.expected().remove(&id);
    }

    /// Whether a part may come, what becomes of it, and where it goes. From now on it may not come
    /// again, unless it is one of many.
    fn admit(
        &self,
        id: MoveId,
        from: NodeId,
        what: BulkKind,
    ) -> Result<(Admitted, mpsc::Sender<Arrived>), &'static str> {
        let mut all = self.expected();
        let expected = all.get_mut(&id).filter(|expected| expected.from == from);
        let expected = expected.ok_or("bytes for no move")?;
        if matches!(what, BulkKind::Pages | BulkKind::Mark) {
            let ground = expected.ground.clone();
            let ground = ground.ok_or("pages before the image or behind the snapshot")?;
            let admitted = match what {
                BulkKind::Mark => Admitted::Marks,
                _ => Admitted::Lands(ground),
            };
            return Ok((admitted, expected.parts.clone()));
        }
        let place = expected.missing.iter().position(|missing| *missing == what);
        expected
            .missing
            .swap_remove(place.ok_or("a part that was not asked for, or comes again")?);
        let limit = match what {
            BulkKind::Image => MAX_IMAGE_BYTES,
            BulkKind::Snapshot => {
                expected.ground = None;
                MAX_SNAPSHOT
            }
            BulkKind::Luggage => MAX_LUGGAGE,
            BulkKind::Log => MAX_LOG,
            BulkKind::LogText => crate::processes::log::TEXT_BYTES,
            BulkKind::Pages | BulkKind::Mark => MAX_PART_BYTES as u64,
        };
        Ok((Admitted::Whole(limit), expected.parts.clone()))
    }

    /// Serves a bulk link that a member has opened.
    pub async fn serve(&self, peer: NodeId, mut link: Secured) {
        let mut last: Option<mpsc::Sender<Arrived>> = None;
        let mut lander = Lander::default();
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
            let (admitted, parts) = match self.admit(header.id, peer, header.what) {
                Ok(admitted) => admitted,
                Err(reason) => {
                    tracing::info!(node = %peer.short(), id = %header.id, reason, "link closed");
                    return;
                }
            };
            let broke = |error| format!("the transfer broke: {error}");
            // Nothing overtakes the pages that came before it.
            let landed = match header.what {
                BulkKind::Pages => Ok(()),
                _ => lander.done().await,
            };
            let arrived = match (landed, admitted) {
                (Err(reason), _) => Err(reason),
                (Ok(()), Admitted::Whole(limit)) => {
                    let part = bulk::read_part(&mut link, header.length, limit).await;
                    part.map_err(broke)
                        .and_then(|bytes| arrived(header.what, bytes))
                }
                (Ok(()), Admitted::Marks) if header.length == 0 => {
                    match bulk::answer_mark(&mut link).await.map_err(broke) {
                        Ok(()) => {
                            last = Some(parts);
                            continue;
                        }
                        Err(reason) => Err(reason),
                    }
                }
                (Ok(()), Admitted::Marks) => {
                    Err("the transfer broke: a mark with bytes".to_owned())
                }
                (Ok(()), Admitted::Lands(ground)) => {
                    let mut buffer = lander.buffer();
                    let part = bulk::read_part_into(&mut link, header.length, &mut buffer);
                    let length = part.await.map(<[u8]>::len).map_err(broke);
                    let landing = match length {
                        Ok(length) => lander.land(ground, buffer, length).await,
                        Err(reason) => Err(reason),
                    };
                    match landing {
                        Ok(()) => {
                            last = Some(parts);
                            continue;
                        }
                        Err(reason) => Err(reason),
                    }
                }
            };
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
        BulkKind::Pages | BulkKind::Mark => return Err("it is not kept whole".to_owned()),
        BulkKind::Log => Arrived::Log(bytes),
        BulkKind::LogText => Arrived::LogText(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a program without memory.
    fn ground() -> Ground {
        let engine = vm::Engine::new(vm::Config::default()).unwrap();
        let program = wat::parse_str("(module (func (export \"_start\")))").unwrap();
        let image = engine.load(&program).unwrap();
        let (node, _inputs) = crate::node_loop::channel();
        Ground::new(node, MOVE, image.landing(0).unwrap())
    }

    const MOVE: MoveId = MoveId(7);
    const SOURCE: NodeId = NodeId([1; 32]);

    fn expecting(need_image: bool) -> (Arrivals, mpsc::Receiver<Arrived>) {
        let arrivals = Arrivals::default();
        let parts = arrivals.expect(MOVE, SOURCE, need_image);
        (arrivals, parts)
    }

    #[test]
    fn each_part_of_a_move_is_taken_once_whatever_links_its_source_opens() {
        use BulkKind::{Image, Log, LogText, Luggage, Snapshot};
        let (arrivals, _parts) = expecting(true);
        for what in [Image, Luggage, Snapshot, Log, LogText] {
            let (admitted, _) = arrivals.admit(MOVE, SOURCE, what).unwrap();
            let whole = matches!(admitted, Admitted::Whole(limit) if limit < 1 << 33);
            assert!(whole, "{what:?}");
            assert!(arrivals.admit(MOVE, SOURCE, what).is_err(), "{what:?}");
        }
    }

    #[test]
    fn pages_are_taken_from_when_there_is_room_until_the_snapshot() {
        let (arrivals, _parts) = expecting(false);
        let lands = || match arrivals.admit(MOVE, SOURCE, BulkKind::Pages) {
            Ok((Admitted::Lands(ground), _)) => ground.land(&[]).is_ok(),
            Ok(_) => panic!("pages are kept whole"),
            Err(_) => false,
        };
        assert!(!lands());
        assert!(arrivals.admit(MOVE, SOURCE, BulkKind::Mark).is_err());
        let ground = ground();
        arrivals.prepare(MOVE, ground.clone());
        assert!(lands() && lands());
        let mark = arrivals.admit(MOVE, SOURCE, BulkKind::Mark);
        assert!(matches!(mark, Ok((Admitted::Marks, _))));
        assert!(arrivals.admit(MOVE, SOURCE, BulkKind::Snapshot).is_ok());
        assert!(!lands());
        assert!(arrivals.admit(MOVE, SOURCE, BulkKind::Mark).is_err());
        // Those that were let in before are too late when the process is made.
        assert!(ground.take().is_some());
        assert!(ground.land(&[]).is_err());
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
