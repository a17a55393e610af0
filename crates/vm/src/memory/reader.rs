//! Pages of memories that are to be sent, read part by part into one buffer.

use super::window::Window;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use wire::pages::PartWriter;
use wire::snapshot::{PAGE_BYTES, PageKind};

/// Pages that are looked at for one part.
const MOST_LOOKED_AT: usize = 1024;
/// Bytes of a page.
const PAGE: u64 = PAGE_BYTES as u64;

/// See the module's documentation.
#[derive(Debug)]
pub struct PageReader {
    windows: Vec<Window>,
    /// What is still to be read: of which memory, and where.
    queue: VecDeque<(usize, Range<u64>)>,
    /// Bytes in it.
    left: u64,
    /// The target has there what the image says, so nothing need be said of such pages.
    fresh: bool,
    writer: PartWriter,
}

impl PageReader {
    /// Reads what differs from the image, for a target that has nothing else yet.
    pub fn of_differing(windows: Vec<Window>) -> PageReader {
        let parts = windows.iter().map(Window::differing).collect();
        PageReader::new(windows, parts, true)
    }

    /// Reads these parts of each memory, in whole pages, for a target that may have anything there.
    pub fn of_parts(windows: Vec<Window>, parts: Vec<Vec<Range<u64>>>) -> PageReader {
        PageReader::new(windows, parts, false)
    }

    fn new(windows: Vec<Window>, parts: Vec<Vec<Range<u64>>>, fresh: bool) -> PageReader {
        let parts = parts.into_iter().enumerate();
        let queue = parts.flat_map(|(memory, parts)| parts.into_iter().map(move |p| (memory, p)));
        let queue: VecDeque<_> = queue.collect();
        PageReader {
            windows,
            left: queue.iter().map(|(_, part)| part.end - part.start).sum(),
            queue,
            fresh,
            writer: PartWriter::new(),
        }
    }

    /// Bytes of memory that are still to be looked at.
    pub fn bytes_left(&self) -> u64 {
        self.left
    }

    /// The next part to send, which may be empty if there is little to be said; none if all was read.
    pub fn next_part(&mut self) -> io::Result<Option<&[u8]>> {
        self.writer.clear();
        let mut looked_at = 0;
        let implied = self.fresh.then_some(PageKind::Image);
        while let Some((memory, part)) = self.queue.front_mut() {
            let window = self.windows.get(*memory);
            let window = window.ok_or(io::ErrorKind::InvalidInput)?;
            let (first, pages) = (part.start / PAGE, (part.end - part.start) / PAGE);
            if pages == 0 {
                self.queue.pop_front();
                continue;
            }
            let fits = self.writer.fits();
            if fits == 0 || looked_at >= MOST_LOOKED_AT {
                break;
            }
            let count = usize::try_from(pages).map_or(fits, |pages| pages.min(fits));
            window.read(part.start, self.writer.pages(count))?;
            let number = u32::try_from(*memory).map_err(|_| io::ErrorKind::InvalidInput)?;
            let kind_of = |page, bytes: &[u8]| window.kind_of(page, bytes);
            self.writer.append((number, first), count, implied, kind_of);
            part.start += count as u64 * PAGE;
            looked_at += count;
            self.left -= count as u64 * PAGE;
        }
        let part = self.writer.part();
        let over = part.is_empty() && self.queue.is_empty();
        Ok((!over).then_some(part))
    }
}
