//! How much room frames need at most; the argument is in the crate's documentation.

use crate::callgraph::CallGraph;
use crate::error::{Error, Place};
use crate::image::PAGE_BYTES;
use crate::module::Module;
use crate::sites::{Site, SiteTable};

/// Least native stack of a frame that is kept over a call.
const MIN_NATIVE_FRAME_BYTES: u64 = 32;

/// Pages of a 32-bit memory, less one so that no address computation wraps.
const MAX_PAGES: u64 = 65_535;

/// The least size of the frames memory, in pages.
pub(crate) fn pages(
    module: &Module<'_>,
    calls: &CallGraph,
    sites: &SiteTable,
    stack_bytes: u32,
) -> Result<u32, Error> {
    let (mut once, mut repeated) = (0, (0, 0));
    for function in &sites.functions {
        let largest = function.sites.iter().map(Site::frame_bytes).max();
        let largest = u64::from(largest.unwrap_or(0));
        // What the pass has added calls nothing that comes back.
        let given = module.imported()..module.type_of.len() as u32;
        if given.contains(&function.function) && calls.recursive(function.function) {
            repeated = repeated.max((largest, function.function));
        } else {
            once += largest;
        }
    }
    let depth = u64::from(stack_bytes) / MIN_NATIVE_FRAME_BYTES + 1;
    let (largest, function) = repeated;
    let pages = (once + depth * largest).div_ceil(PAGE_BYTES).max(1);
    if pages > MAX_PAGES {
        return Err(Error::too_large(
            Place::function(function),
            format!(
                "a frame of {largest} bytes in a recursive function; frames of a stack of \
                 {stack_bytes} bytes could exceed 4 GiB"
            ),
        ));
    }
    Ok(pages as u32)
}
