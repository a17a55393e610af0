//! Where the memory of a process lands that comes from another node.
//!
//! Slots of the image's memories, taken before the process is there. Pages are written into them as
//! they arrive, in any order and any number of times; the process is then thawed in them, and
//! nothing is copied again. Whatever comes is checked: it is from another machine.

use super::Budget;
use super::pages::Pages;
use super::slot::Slot;
use super::space::Room;
use std::io;
use std::sync::Arc;
use wire::pages::Batch;
use wire::snapshot::PAGE_BYTES;

const UNIT: usize = 65536;

/// Pages that cannot be where they are said to be, or for which there is no room.
#[derive(Debug, thiserror::Error)]
pub enum LandingError {
    /// The program has no such memory.
    #[error("pages of memory {memory} arrived, but the program has {memories} memories")]
    Memory {
        /// The number that came.
        memory: u32,
        /// The program's.
        memories: usize,
    },
    /// They are behind what the memory can grow to.
    #[error("pages arrived at {at} of memory {memory}, which can have {most} bytes")]
    Beyond {
        /// Which memory.
        memory: u32,
        /// Where they end, in bytes.
        at: u64,
        /// The most bytes that it can have.
        most: u64,
    },
    /// The system gives no more, or the process may have no more.
    #[error("no room for the memory of a process that arrives: {0}")]
    Room(#[from] io::Error),
}

/// One memory of a landing.
#[derive(Debug)]
struct Place {
    slot: Arc<Slot>,
    /// The most bytes that the program lets it have.
    most: u64,
    /// Bytes at the start that begin as the image's do; what is behind begins with zeros.
    of_image: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Landing {
    places: Vec<Place>,
    touched: bool,
}

impl Landing {
    /// Takes slots for memories that begin so; of each, in which room and the most bytes that it can
    /// have. All together may come to have `limit` bytes.
    pub(crate) fn new<'a>(
        memories: impl Iterator<Item = (&'a Arc<Pages>, Room, u64)>,
        limit: u64,
    ) -> Result<Landing, LandingError> {
        let budget = Arc::new(Budget::new(limit));
        let places = memories.map(|(pages, room, most)| {
            let slot = Slot::of_pages(pages, room)?;
            if !slot.charge_to(&budget) {
                return Err(io::Error::from(io::ErrorKind::OutOfMemory).into());
            }
            Ok(Place {
                slot: Arc::new(slot),
                most,
                of_image: pages.bytes().len(),
            })
        });
        Ok(Landing {
            places: places.collect::<Result<_, LandingError>>()?,
            touched: false,
        })
    }

    /// Writes a batch where it belongs; the memory grows as far as that.
    pub fn land(&mut self, batch: &Batch<'_>) -> Result<(), LandingError> {
        let (memory, memories) = (batch.memory, self.places.len());
        let place = usize::try_from(memory).ok();
        let place = place.and_then(|memory| self.places.get(memory));
        let place = place.ok_or(LandingError::Memory { memory, memories })?;
        let at = batch.first.saturating_add(batch.pages());
        let at = at.saturating_mul(PAGE_BYTES as u64);
        let most = place.most;
        let end = usize::try_from(at).ok().filter(|_| at <= most);
        let end = end.ok_or(LandingError::Beyond { memory, at, most })?;
        self.touched = true;
        place.slot.grow(end.next_multiple_of(UNIT))?;
        for stretch in batch.stretches() {
            // Within the slot, as just seen.
            let start = stretch.first as usize * PAGE_BYTES;
            let part = start..start + stretch.pages as usize * PAGE_BYTES;
            match stretch.kind {
                wire::snapshot::PageKind::Given => place.slot.put(part.start, stretch.given),
                wire::snapshot::PageKind::Image => place.slot.as_it_began(part)?,
                // Zero from the beginning, so it need not be there at all.
                wire::snapshot::PageKind::Zero if part.start >= place.of_image => {
                    place.slot.as_it_began(part)?;
                }
                wire::snapshot::PageKind::Zero => place.slot.put_zeros(part),
            }
        }
        Ok(())
    }

    /// Whether any pages have come. If none have, it is the image's.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Bytes of each memory so far.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        self.places.iter().map(|place| place.slot.size() as u64)
    }

    /// Gives the slots: nothing lands any more.
    pub(crate) fn into_slots(self) -> impl Iterator<Item = Arc<Slot>> {
        self.places.into_iter().map(|place| place.slot)
    }
}
