//! Volumes of processes: what is asked for, whether it may be given, and whether it may be moved.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use vm::{MAX_VOLUMES, VolumeError};
use wire::snapshot::{Binding, Volume};

const MAX_PATH_BYTES: usize = 4096;

/// Volumes that a process cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are too many.
    #[error("a process may have {MAX_VOLUMES} volumes")]
    TooMany,
    /// Its source is not the path of a directory.
    #[error("`{0}` is not the path of a directory on a node: it must be absolute and without `..`")]
    Source(String),
    /// Its destination is not a path in the process.
    #[error("`{0}` is not a place for a volume: it must be absolute, without `..`, and not `/`")]
    Destination(String),
    /// Two of them have one destination.
    #[error("two volumes are to be at `{0}`; leave one out")]
    Twice(String),
    /// It is not given.
    #[error(transparent)]
    NotGiven(#[from] VolumeError),
}

/// Whose directories may be given to processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grants {
    /// Any that the user can open who runs this.
    All,
    /// These, and what is beneath them.
    Within(Vec<PathBuf>),
}

/// An absolute path that says what it is, to whoever reads it.
fn is_plain(path: &str) -> bool {
    let parts = || Path::new(path).components();
    path.len() <= MAX_PATH_BYTES
        && !path.contains('\0')
        && parts().next() == Some(Component::RootDir)
        && !parts().any(|part| part == Component::ParentDir)
}

fn check(volumes: &[Volume]) -> Result<(), Refused> {
    if volumes.len() > MAX_VOLUMES {
        return Err(Refused::TooMany);
    }
    let mut taken = BTreeSet::new();
    for Volume {
        source,
        destination,
        ..
    } in volumes
    {
        if !is_plain(source) {
            return Err(Refused::Source(source.clone()));
        }
        if !is_plain(destination) || Path::new(destination).components().count() < 2 {
            return Err(Refused::Destination(destination.clone()));
        }
        if !taken.insert(Path::new(destination)) {
            return Err(Refused::Twice(destination.clone()));
        }
    }
    Ok(())
}

impl Grants {
    /// Opens the volumes for a process, all or none. May wait for the disk.
    pub fn open(&self, volumes: &[Volume]) -> Result<Arc<[vm::Volume]>, Refused> {
        check(volumes)?;
        let open = |volume: &Volume| match self {
            Grants::All => vm::Volume::open(volume.clone()),
            Grants::Within(allowed) => vm::Volume::open_within(volume.clone(), allowed),
        };
        Ok(volumes.iter().map(open).collect::<Result<_, _>>()?)
    }
}

/// Whether a process with these volumes can be elsewhere; why not, for people.
pub fn movable(name: &str, volumes: &[Volume]) -> Result<(), String> {
    match volumes.iter().find(|volume| volume.binding == Binding::Pin) {
        Some(pinned) => Err(format!(
            "process {name} stays where it is: its volume {pinned} is pinned to this node; a volume \
             given as `share` lets it move to where there is the same directory, one given as `copy` \
             goes along"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(source: &str, destination: &str, binding: Binding) -> Volume {
        Volume {
            source: source.to_owned(),
            destination: destination.to_owned(),
            binding,
        }
    }

    #[test]
    fn a_volume_has_two_plain_paths_and_no_other_has_its_place() {
        let at = |source, destination| check(&[volume(source, destination, Binding::Share)]);
        assert_eq!(at("/srv/a b", "/data"), Ok(()));
        for source in ["", "srv", "/srv/../etc", "/a\0b"] {
            assert_eq!(at(source, "/x"), Err(Refused::Source(source.to_owned())));
        }
        for place in ["", "/", "//", "/.", "x", "/x/../y"] {
            assert_eq!(at("/x", place), Err(Refused::Destination(place.to_owned())));
        }
        let twice = ["/x", "/x/"].map(|place| volume("/a", place, Binding::Share));
        assert_eq!(check(&twice), Err(Refused::Twice("/x/".to_owned())));
        let many: Vec<_> = (0..=MAX_VOLUMES)
            .map(|number| volume("/a", &format!("/{number}"), Binding::Share))
            .collect();
        assert_eq!(check(&many), Err(Refused::TooMany));
        assert_eq!(check(&many[1..]), Ok(()));
    }

    #[test]
    fn what_is_pinned_is_named() {
        let volumes = [
            volume("/a", "/x", Binding::Share),
            volume("/b", "/y", Binding::Pin),
        ];
        assert_eq!(movable("web", &volumes[..1]), Ok(()));
        let refusal = movable("web", &volumes).unwrap_err();
        assert!(
            refusal.contains("web") && refusal.contains("`/y` (/b)"),
            "{refusal}"
        );
    }

    #[test]
    fn nothing_is_given_by_a_node_that_was_not_told_to() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().to_str().unwrap();
        let volumes = [volume(source, "/x", Binding::Share)];
        let refusal = Grants::Within(Vec::new()).open(&volumes).unwrap_err();
        assert!(refusal.to_string().contains("--volumes"), "{refusal}");
        let above = directory.path().parent().unwrap().to_owned();
        assert_eq!(Grants::Within(vec![above]).open(&volumes).unwrap().len(), 1);
        assert_eq!(Grants::All.open(&volumes).unwrap().len(), 1);
        let missing = [volume(&format!("{source}/none"), "/x", Binding::Share)];
        let refusal = Grants::All.open(&missing).unwrap_err().to_string();
        assert!(
            refusal.contains("`/x`") && refusal.contains("none"),
            "{refusal}"
        );
    }
}
