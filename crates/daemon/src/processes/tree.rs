//! The initial file tree of a process, from what a request names.

use std::time::{SystemTime, UNIX_EPOCH};
use vm::{FilesError, TreeBuilder};
use wire::api::FileSpec;
use wire::snapshot::FileTree;

/// Builds the tree. `contents` belong to `specs`, in order.
pub fn build(specs: &[FileSpec], contents: &[&[u8]]) -> Result<FileTree, FilesError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    let mut builder = TreeBuilder::new(now);
    for (spec, content) in specs.iter().zip(contents) {
        let path = spec.path.as_bytes();
        match &spec.link {
            Some(target) => builder.link(path, target.as_bytes())?,
            None if spec.directory => builder.directory(path)?,
            None => builder.file(path, content.to_vec())?,
        };
    }
    Ok(builder.build())
}
