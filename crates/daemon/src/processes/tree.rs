//! What a process is born with, from what a request names: arguments, environment, files.

use std::time::{SystemTime, UNIX_EPOCH};
use vm::{FilesError, Spec, TreeBuilder};
use wire::api::{FileSpec, RunSpec};

/// What a program is started with. `contents` belong to `spec.files`, in order; copies them.
pub fn birth(
    spec: &RunSpec,
    contents: &[&[u8]],
    listeners: Vec<String>,
) -> Result<Spec, FilesError> {
    let mut files = build(&spec.files, contents)?;
    // A program that lists the directory above sees that there is something.
    for volume in &spec.volumes {
        files.directory(volume.destination.as_bytes())?;
    }
    let destinations = spec.volumes.iter();
    let destinations = destinations.map(|volume| volume.destination.clone().into_bytes());
    let bytes = |texts: &[String]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    Ok(Spec {
        args: bytes(&spec.args),
        env: bytes(&spec.env),
        files: files.build(),
        listeners,
        volumes: destinations.collect(),
        ..Spec::default()
    })
}

/// The tree. `contents` belong to `specs`, in order.
fn build(specs: &[FileSpec], contents: &[&[u8]]) -> Result<TreeBuilder, FilesError> {
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
    Ok(builder)
}
