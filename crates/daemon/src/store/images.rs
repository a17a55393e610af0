//! Images on disk, named by their hash: what is there under a name is what the name says.

use crate::state_dir::write_whole;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use wire::ImageId;

/// The longest module that is taken, in bytes.
pub const MAX_IMAGE_BYTES: u64 = 512 << 20;

/// Bytes of modules that are kept although nothing here uses them.
pub const MAX_UNUSED_BYTES: u64 = 1 << 30;

/// The directory of images.
#[derive(Clone, Debug)]
pub struct Images {
    root: PathBuf,
}

/// The id of a module: its BLAKE3 hash.
pub fn id_of(module: &[u8]) -> ImageId {
    ImageId(*blake3::hash(module).as_bytes())
}

impl Images {
    /// Images under `root`, which exists. What a crash has left half-written goes.
    pub fn new(root: &Path) -> Images {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.path().extension().is_none_or(|kind| kind != "wasm") {
                let _ = fs::remove_file(entry.path());
            }
        }
        Images {
            root: root.to_owned(),
        }
    }

    fn path(&self, image: ImageId) -> PathBuf {
        self.root.join(format!("{image}.wasm"))
    }

    /// Whether the image is here.
    pub fn has(&self, image: ImageId) -> bool {
        self.path(image).is_file()
    }

    /// Keeps a module. On failure (a full disk) nothing of it stays.
    pub fn put(&self, module: &[u8]) -> Result<ImageId, String> {
        let image = id_of(module);
        if self.has(image) {
            self.touch(image);
        } else {
            write_whole(&self.path(image), module).map_err(|error| error.to_string())?;
        }
        Ok(image)
    }

    /// Reads a module; none if it is not here or is not what its name says (then it is removed,
    /// so that it can be fetched again).
    pub fn get(&self, image: ImageId) -> Result<Option<Vec<u8>>, String> {
        let path = self.path(image);
        let module = match fs::read(&path) {
            Ok(module) => module,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        if id_of(&module) == image {
            self.touch(image);
            return Ok(Some(module));
        }
        tracing::warn!(path = %path.display(), "a stored image is damaged; removed");
        let _ = fs::remove_file(&path);
        Ok(None)
    }

    /// It is of use now; where that cannot be noted it goes earlier than others.
    fn touch(&self, image: ImageId) {
        if let Ok(file) = fs::File::open(self.path(image)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Removes modules that nothing uses, those first that were of no use for longest, until they have
    /// no more than `most` bytes. `unless_used` does what it is given, unless the image is used or
    /// comes into use meanwhile.
    pub fn shrink(&self, most: u64, unless_used: impl Fn(ImageId, &mut dyn FnMut())) {
        let mut unused = Vec::new();
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let path = entry.path();
            let image = path.file_stem().and_then(|stem| stem.to_str());
            let image = image.and_then(|stem| stem.parse::<ImageId>().ok());
            let (Some(image), Ok(metadata)) = (image, entry.metadata()) else {
                continue;
            };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            unless_used(image, &mut || {
                unused.push((modified, metadata.len(), image))
            });
        }
        unused.sort_unstable_by_key(|(modified, _, _)| *modified);
        let mut bytes: u64 = unused.iter().map(|(_, length, _)| length).sum();
        for (_, length, image) in unused {
            if bytes <= most {
                return;
            }
            unless_used(image, &mut || {
                if fs::remove_file(self.path(image)).is_ok() {
                    bytes = bytes.saturating_sub(length);
                    tracing::info!(image = %image.short(), "a stored image is of no use any more; removed");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_its_hash() {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::new(directory.path());
        let image = images.put(b"\0asm").unwrap();
        assert!(images.has(image));
        assert_eq!(images.get(image).unwrap().unwrap(), b"\0asm");
        assert_eq!(images.get(ImageId([1; 32])).unwrap(), None);
    }

    #[test]
    fn a_damaged_image_is_not_given_out_but_can_be_put_again() {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::new(directory.path());
        let image = images.put(b"module").unwrap();
        fs::write(images.path(image), b"modulE").unwrap();
        assert_eq!(images.get(image).unwrap(), None);
        assert!(!images.has(image));
        assert_eq!(images.put(b"module").unwrap(), image);
    }

    #[test]
    fn what_a_crash_has_left_half_written_goes() {
        let directory = tempfile::tempdir().unwrap();
        let image = Images::new(directory.path()).put(b"module").unwrap();
        let half = directory.path().join(format!("{image}.wasm.new.7"));
        fs::write(&half, b"mod").unwrap();
        let images = Images::new(directory.path());
        assert!(images.has(image) && !half.exists());
    }

    #[test]
    fn images_that_nothing_uses_go_the_longest_unused_first() {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::new(directory.path());
        let put = |age: u64, module: &[u8]| {
            let image = images.put(module).unwrap();
            let file = fs::File::open(images.path(image)).unwrap();
            let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 - age);
            file.set_modified(modified).unwrap();
            image
        };
        let (used, old, newer, read) = (
            put(9, b"used"),
            put(7, b"old image"),
            put(3, b"newer"),
            put(8, b"read"),
        );
        images.get(read).unwrap();
        let unless_used = |image: ImageId, act: &mut dyn FnMut()| {
            if image != used {
                act();
            }
        };
        let left = || [used, old, newer, read].map(|image| images.has(image));
        images.shrink(18, unless_used);
        assert_eq!(left(), [true; 4]);
        images.shrink(17, unless_used);
        assert_eq!(left(), [true, false, true, true]);
        images.shrink(4, unless_used);
        assert_eq!(left(), [true, false, false, true]);
        images.shrink(0, unless_used);
        assert_eq!(left(), [true, false, false, false]);
    }

    #[test]
    fn an_image_that_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::new(&directory.path().join("missing"));
        assert!(images.put(b"module").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
