//! Many pieces of one size in few mappings: a system allows a process some 65,000 of them, and to
//! make one takes a call.
//!
//! ```text
//! slab | piece 0 | piece 1 | piece 2 | ... | tail |
//! ```
//! A piece is used by one at a time, and comes back when it is dropped. A slab stays: what is free
//! of it costs address space, and what its pieces keep resident. In slabs that are open, what is in
//! a used piece is as it was left, and in a new one it is zero; in closed ones, whoever has a piece
//! opens parts of it and closes them again.

use super::space::{Room, Space};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A source of pieces.
#[derive(Debug)]
pub(super) struct Slabs {
    /// Bytes of a piece.
    piece: usize,
    /// Pieces of a slab.
    count: usize,
    /// Bytes behind the last piece of a slab.
    tail: usize,
    open: bool,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    /// Pieces that were used, the one that came back last at the end: it is the likeliest to be in
    /// the caches.
    used: Vec<(Arc<Space>, usize)>,
    /// Those of which nothing is resident: taken when there are no others.
    cold: Vec<(Arc<Space>, usize)>,
    /// The last slab that was made, and where its first piece is that was never used.
    fresh: Option<(Arc<Space>, usize)>,
    /// Pieces that could not be prepared, to be tried again.
    unprepared: Vec<(Arc<Space>, usize)>,
}

impl Slabs {
    /// Open pieces of `piece` bytes, so many in a slab, and `tail` bytes behind the last.
    pub(super) fn open(piece: usize, count: usize, tail: usize) -> Arc<Slabs> {
        Slabs::new(piece, count, tail, true)
    }

    /// Closed pieces of `piece` bytes, so many in a slab.
    pub(super) fn closed(piece: usize, count: usize) -> Arc<Slabs> {
        Slabs::new(piece, count, 0, false)
    }

    fn new(piece: usize, count: usize, tail: usize, open: bool) -> Arc<Slabs> {
        Arc::new(Slabs {
            piece,
            count,
            tail,
            open,
            rest: Mutex::default(),
        })
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a piece. `prepare` is called with one that was never used, and its offset.
    pub(super) fn take(
        self: &Arc<Slabs>,
        prepare: impl FnOnce(&Space, usize) -> io::Result<()>,
    ) -> io::Result<Piece> {
        let mut rest = self.rest();
        if let Some((slab, offset)) = rest.used.pop().or_else(|| rest.cold.pop()) {
            drop(rest);
            return Ok(self.piece(slab, offset));
        }
        let again = rest.unprepared.pop();
        let (slab, offset) = match again {
            Some(piece) => piece,
            None => self.fresh(&mut rest)?,
        };
        drop(rest);
        if let Err(error) = prepare(&slab, offset) {
            self.rest().unprepared.push((slab, offset));
            return Err(error);
        }
        Ok(self.piece(slab, offset))
    }

    /// A piece that was never used, of a new slab if need be.
    fn fresh(&self, rest: &mut Rest) -> io::Result<(Arc<Space>, usize)> {
        let end = self.piece * self.count;
        let (slab, offset) = match rest.fresh.take() {
            Some(fresh) => fresh,
            None => {
                let capacity = end + self.tail;
                let slab = Space::new(Room { capacity, guard: 0 })?;
                if self.open {
                    slab.open(0..capacity)?;
                }
                (Arc::new(slab), 0)
            }
        };
        let next = offset + self.piece;
        rest.fresh = (next < end).then(|| (Arc::clone(&slab), next));
        Ok((slab, offset))
    }

    fn piece(self: &Arc<Slabs>, slab: Arc<Space>, offset: usize) -> Piece {
        Piece {
            slab,
            offset,
            cold: false,
            home: Arc::clone(self),
        }
    }

    /// Bytes of a piece.
    pub(super) fn piece_bytes(&self) -> usize {
        self.piece
    }
}

/// One piece.
#[derive(Debug)]
pub(super) struct Piece {
    slab: Arc<Space>,
    offset: usize,
    cold: bool,
    home: Arc<Slabs>,
}

impl Piece {
    /// The slab, and where in it the piece begins.
    pub(super) fn place(&self) -> (&Space, usize) {
        (&self.slab, self.offset)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> usize {
        self.home.piece
    }

    /// Its first byte.
    pub(super) fn base(&self) -> *mut u8 {
        self.slab.base().wrapping_add(self.offset)
    }

    /// How many like it wait for their next use and may be resident.
    pub(super) fn warm_ones(&self) -> usize {
        self.home.rest().used.len()
    }

    /// Says that nothing of it is resident.
    pub(super) fn set_cold(&mut self) {
        self.cold = true;
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let piece = (Arc::clone(&self.slab), self.offset);
        let mut rest = self.home.rest();
        match self.cold {
            true => rest.cold.push(piece),
            false => rest.used.push(piece),
        }
    }
}
