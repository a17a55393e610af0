//! What a process is born with, from what a request names: arguments, environment, files, limits.

use std::time::{SystemTime, UNIX_EPOCH};
use vm::{FilesError, Spec, TreeBuilder};
use wire::api::{FileSpec, LimitSpec, RunSpec};
use wire::snapshot::Limits;

/// Why there is no process as named.
#[derive(Debug, thiserror::Error)]
pub enum BirthError {
    /// A file makes no sense.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A limit is above that of every node.
    #[error("a process may have at most {most} {what}, not {asked}; ask for less, or leave it out")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What was asked for.
        asked: u64,
        /// What may be asked for.
        most: u64,
    },
}

/// What a program is started with. `contents` belong to `spec.files`, in order; copies them.
pub fn birth(
    spec: &RunSpec,
    contents: &[&[u8]],
    listeners: Vec<String>,
) -> Result<Spec, BirthError> {
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
        limits: limits(&spec.limits)?,
        ..Spec::default()
    })
}

fn limits(asked: &LimitSpec) -> Result<Limits, BirthError> {
    let most = Limits::default();
    let within = |what, asked: Option<u64>, most| match asked {
        Some(asked) if asked > most => Err(BirthError::Limit { what, asked, most }),
        Some(asked) => Ok(asked),
        None => Ok(most),
    };
    let descriptors = asked.descriptors.map(u64::from);
    let descriptors = within("descriptors", descriptors, most.descriptors.into())?;
    Ok(Limits {
        memory_bytes: within("bytes of memory", asked.memory_bytes, most.memory_bytes)?,
        file_bytes: within("bytes of files", asked.file_bytes, most.file_bytes)?,
        descriptors: u32::try_from(descriptors).unwrap_or(most.descriptors),
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
