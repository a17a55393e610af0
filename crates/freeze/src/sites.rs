//! The site table: what lies in a frame, for every place at which a stack can be frozen.
//!
//! It is the key to a frozen stack, equal for the run and the thaw module and for every kind of
//! poll, and it is what an [artefact's id](crate::Artefact::id) stands for.

use thiserror::Error;
use wasmparser::ValType;

/// The type of a saved value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// 4 bytes, little endian.
    I32,
    /// 8 bytes, little endian.
    I64,
    /// 4 bytes, the bits of an IEEE 754 number, little endian.
    F32,
    /// 8 bytes, the bits of an IEEE 754 number, little endian.
    F64,
    /// 16 bytes, lane 0 first.
    V128,
    /// A reference to a function: no bytes, but an entry of the table of references.
    Function,
    /// A reference of the host: no bytes, for it is null wherever a program can be frozen.
    External,
    /// A reference to an exception, taken apart: its tag (4 bytes, `u32::MAX` for null), then room
    /// for the numbers of the largest payload of any tag, and that many entries of the table of
    /// references for the references in it.
    Exception {
        /// Size in a frame, the tag included.
        bytes: u32,
        /// Entries in the table of references.
        references: u32,
    },
}

impl Slot {
    /// Size in a frame.
    pub fn bytes(self) -> u32 {
        match self {
            Slot::I32 | Slot::F32 => 4,
            Slot::I64 | Slot::F64 => 8,
            Slot::V128 => 16,
            Slot::Function | Slot::External => 0,
            Slot::Exception { bytes, .. } => bytes,
        }
    }

    /// Number of its entries in the table of references.
    pub fn references(self) -> u32 {
        match self {
            Slot::Function => 1,
            Slot::Exception { references, .. } => references,
            _ => 0,
        }
    }

    /// The slot for a number or vector; `None` for references.
    pub(crate) fn of(kind: ValType) -> Option<Slot> {
        match kind {
            ValType::I32 => Some(Slot::I32),
            ValType::I64 => Some(Slot::I64),
            ValType::F32 => Some(Slot::F32),
            ValType::F64 => Some(Slot::F64),
            ValType::V128 => Some(Slot::V128),
            ValType::Ref(_) => None,
        }
    }

    fn code(self) -> u8 {
        match self {
            Slot::I32 => 0,
            Slot::I64 => 1,
            Slot::F32 => 2,
            Slot::F64 => 3,
            Slot::V128 => 4,
            Slot::Function => 5,
            Slot::External => 6,
            Slot::Exception { .. } => 7,
        }
    }
}

/// What kind of place a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// A poll that is at no loop head: of a recursive function before it calls back, or after a call
    /// of a function that may freeze. Always an innermost frame.
    Entry,
    /// The poll at the head of a loop. Always an innermost frame.
    Head,
    /// A call of a function that may freeze, or an operator on a range of memory, which is one if
    /// the range is long. Never an innermost frame.
    Call,
    /// A call of an import that may freeze; it is issued again at thaw. Always an innermost frame.
    Host,
    /// In a function for ranges of memory, with what is left of the range. Always an innermost
    /// frame.
    Bulk,
}

impl SiteKind {
    fn code(self) -> u8 {
        match self {
            SiteKind::Entry => 0,
            SiteKind::Head => 1,
            SiteKind::Call => 2,
            SiteKind::Host => 3,
            SiteKind::Bulk => 4,
        }
    }
}

/// A place at which a stack can be frozen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// What kind of place.
    pub kind: SiteKind,
    /// The saved values, in the order in which they lie in the frame, without gaps.
    pub slots: Vec<Slot>,
}

/// Bytes of the function id and the site number that end every frame.
pub const FRAME_TRAILER_BYTES: u32 = 8;

impl Site {
    /// Size of its frames, trailer included.
    pub fn frame_bytes(&self) -> u32 {
        self.slots.iter().map(|slot| slot.bytes()).sum::<u32>() + FRAME_TRAILER_BYTES
    }

    /// Number of entries in the table of references that belong to its frames.
    pub fn references(&self) -> u32 {
        self.slots.iter().map(|slot| slot.references()).sum()
    }
}

/// An instrumented function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FunctionSites {
    /// Its index in the module as given. For an import that can be in a table, the index of the
    /// import: the function is then a wrapper around it, made by the pass. A function that the pass
    /// adds for ranges of memory has the index that it has in the modules made.
    pub function: u32,
    /// Its sites, by site number.
    pub sites: Vec<Site>,
}

/// All sites, by function id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteTable {
    /// The instrumented functions. A function id is an index into this list.
    pub functions: Vec<FunctionSites>,
}

/// One frame of a frozen stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The function id.
    pub function: u32,
    /// The site number.
    pub site: u32,
    /// The saved values, without the trailer.
    pub values: &'a [u8],
}

/// What is wrong with a frozen stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// There are no frames at all.
    #[error("the frozen stack has no frames")]
    Empty,
    /// The bytes end within a frame.
    #[error("the frozen stack is cut off: {left} bytes are left where a frame needs {needed}")]
    Truncated {
        /// Bytes left.
        left: usize,
        /// Bytes that the frame needs.
        needed: usize,
    },
    /// A frame names a site that the artefact has not.
    #[error("the frozen stack names site {site} of function {function}, which does not exist")]
    UnknownSite {
        /// The function id.
        function: u32,
        /// The site number.
        site: u32,
    },
    /// A frame that is not the innermost one stands at a poll or host call, or the other way round.
    #[error("site {site} of function {function} cannot be at depth {depth} of a frozen stack")]
    Misplaced {
        /// The function id.
        function: u32,
        /// The site number.
        site: u32,
        /// Number of frames outside of it.
        depth: usize,
    },
}

impl SiteTable {
    /// The site, if there is one.
    pub fn site(&self, function: u32, site: u32) -> Option<&Site> {
        self.functions
            .get(function as usize)?
            .sites
            .get(site as usize)
    }

    /// Takes a frozen stack apart, outermost frame first, and checks that a stack of these
    /// functions could have left it.
    pub fn frames<'a>(&self, mut stack: &'a [u8]) -> Result<Vec<Frame<'a>>, FrameError> {
        let mut frames = Vec::new();
        while !stack.is_empty() {
            let truncated = |needed: u32| FrameError::Truncated {
                left: stack.len(),
                needed: needed as usize,
            };
            let (rest, trailer) = stack
                .split_last_chunk::<{ FRAME_TRAILER_BYTES as usize }>()
                .ok_or(truncated(FRAME_TRAILER_BYTES))?;
            let [a, b, c, d, e, f, g, h] = *trailer;
            let function = u32::from_le_bytes([a, b, c, d]);
            let number = u32::from_le_bytes([e, f, g, h]);
            let site = self.site(function, number).ok_or(FrameError::UnknownSite {
                function,
                site: number,
            })?;
            let size = site.frame_bytes() - FRAME_TRAILER_BYTES;
            let start = rest
                .len()
                .checked_sub(size as usize)
                .ok_or(truncated(size + FRAME_TRAILER_BYTES))?;
            let (inner, values) = rest.split_at(start);
            if (site.kind == SiteKind::Call) == inner.is_empty() {
                return Err(FrameError::Misplaced {
                    function,
                    site: number,
                    depth: frames.len(),
                });
            }
            frames.push(Frame {
                function,
                site: number,
                values,
            });
            stack = inner;
        }
        if frames.is_empty() {
            return Err(FrameError::Empty);
        }
        Ok(frames)
    }

    /// Number of entries that the table of references has with these frames.
    pub fn references(&self, frames: &[Frame<'_>]) -> u64 {
        let sites = frames
            .iter()
            .filter_map(|frame| self.site(frame.function, frame.site));
        sites.map(|site| u64::from(site.references())).sum()
    }

    /// The table as bytes, for hashing: equal tables have equal bytes, and only they.
    ///
    /// All numbers are u32, little endian: the number of functions; then for each its index and
    /// its number of sites; then for each site a kind byte (0 entry, 1 head, 2 call, 3 host, 4
    /// bulk), the number of slots, and a byte per slot (0 i32, 1 i64, 2 f32, 3 f64, 4 v128, 5
    /// function, 6 external, 7 exception and then its bytes and references).
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let word = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u32).to_le_bytes());
        word(&mut bytes, self.functions.len());
        for function in &self.functions {
            word(&mut bytes, function.function as usize);
            word(&mut bytes, function.sites.len());
            for site in &function.sites {
                bytes.push(site.kind.code());
                word(&mut bytes, site.slots.len());
                for slot in &site.slots {
                    bytes.push(slot.code());
                    if let Slot::Exception {
                        bytes: size,
                        references,
                    } = slot
                    {
                        word(&mut bytes, *size as usize);
                        word(&mut bytes, *references as usize);
                    }
                }
            }
        }
        bytes
    }

    /// The largest frame of any site, in bytes.
    pub fn largest_frame_bytes(&self) -> u32 {
        let sites = self.functions.iter().flat_map(|f| &f.sites);
        sites.map(Site::frame_bytes).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> SiteTable {
        SiteTable {
            functions: vec![FunctionSites {
                function: 3,
                sites: vec![
                    Site {
                        kind: SiteKind::Head,
                        slots: vec![Slot::I32],
                    },
                    Site {
                        kind: SiteKind::Call,
                        slots: vec![Slot::V128, Slot::F64],
                    },
                ],
            }],
        }
    }

    fn frame(values: &[u8], function: u32, site: u32) -> Vec<u8> {
        let mut bytes = values.to_vec();
        bytes.extend(function.to_le_bytes());
        bytes.extend(site.to_le_bytes());
        bytes
    }

    #[test]
    fn a_stack_is_taken_apart_outermost_first() {
        let mut stack = frame(&[7; 4], 0, 0);
        stack.extend(frame(&[9; 24], 0, 1));
        let frames = table().frames(&stack).unwrap();
        let sites: Vec<_> = frames.iter().map(|f| (f.site, f.values.len())).collect();
        assert_eq!(sites, [(1, 24), (0, 4)]);
    }

    #[test]
    fn an_impossible_stack_is_refused() {
        let table = table();
        let head = frame(&[7; 4], 0, 0);
        let call = frame(&[9; 24], 0, 1);
        assert_eq!(table.frames(&[]), Err(FrameError::Empty));
        assert!(matches!(
            table.frames(&head[1..]),
            Err(FrameError::Truncated { .. })
        ));
        assert!(matches!(
            table.frames(&frame(&[], 0, 2)),
            Err(FrameError::UnknownSite { .. })
        ));
        for stack in [call.clone(), [head.clone(), head].concat()] {
            assert!(matches!(
                table.frames(&stack),
                Err(FrameError::Misplaced { .. })
            ));
        }
    }

    #[test]
    fn the_encoding_is_fixed_to_the_byte() {
        let expected = [
            1, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 1, 0, 0, 0, 0, 2, 2, 0, 0, 0, 4, 3,
        ];
        assert_eq!(table().encode(), expected);
    }
}
