//! Loaded programs: compiled once per image, shared by all who run it.

use crate::store::images::{Images, MAX_UNUSED_BYTES};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::OnceCell;
use vm::{Engine, Image, LoadError};
use wire::ImageId;

/// Images that stay loaded although nothing runs them. (Those that run stay in any case.)
const KEPT: usize = 32;

/// Why a program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Unloadable {
    /// The module cannot be run.
    #[error(transparent)]
    Module(#[from] LoadError),
    /// It could not be kept, or read back.
    #[error("{0}")]
    Store(String),
    /// It is not on this node.
    #[error("image {} is not on this node", .0.short())]
    Missing(ImageId),
}

type Cell = Arc<OnceCell<Arc<Image>>>;

/// Loads images, each once at a time. Modules that nothing here uses are kept up to a limit.
#[derive(Debug)]
pub struct Loader {
    engine: Engine,
    images: Images,
    known: Arc<Mutex<Known>>,
}

/// Which images are loaded, and which are used.
#[derive(Debug, Default)]
struct Known {
    /// The latest used first.
    loaded: VecDeque<(ImageId, Cell)>,
    /// Whatever runs, or is about to, has its image.
    alive: HashMap<ImageId, Weak<Image>>,
    /// How many are about to load each.
    wanted: HashMap<ImageId, usize>,
}

impl Known {
    fn is_used(&self, image: ImageId) -> bool {
        let mut cells = self.loaded.iter().filter(|(id, _)| *id == image);
        // That it stays loaded for later is no use.
        let kept = usize::from(cells.any(|(_, cell)| cell.initialized()));
        let alive = self.alive.get(&image).map_or(0, Weak::strong_count);
        alive > kept || self.wanted.contains_key(&image)
    }
}

/// An image that somebody is about to load: its module stays where it is until this is dropped.
#[derive(Debug)]
pub struct Wanted {
    known: Arc<Mutex<Known>>,
    image: ImageId,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.wanted.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                known.wanted.remove(&self.image);
            }
        }
    }
}

impl Loader {
    /// A loader of the images in a store.
    pub fn new(engine: Engine, images: Images) -> Loader {
        let loader = Loader {
            engine,
            images,
            known: Arc::default(),
        };
        shrink(&loader.known, &loader.images, MAX_UNUSED_BYTES);
        loader
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image is going to be loaded.
    pub fn want(&self, image: ImageId) -> Wanted {
        *self.known().wanted.entry(image).or_default() += 1;
        Wanted {
            known: self.known.clone(),
            image,
        }
    }

    /// Loads a module without keeping it.
    pub async fn load_alone(
        engine: Engine,
        module: bytes::Bytes,
    ) -> Result<Arc<Image>, Unloadable> {
        blocking(move || Ok(engine.load(&module)?)).await
    }

    /// The store.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// Keeps a module and loads it. One that cannot be loaded is not kept.
    pub async fn add(&self, module: bytes::Bytes) -> Result<Arc<Image>, Unloadable> {
        let image = {
            let module = module.clone();
            blocking(move || Ok(crate::store::images::id_of(&module))).await?
        };
        let loaded = self.load_with(image, Some(module.clone())).await?;
        let (images, known) = (self.images.clone(), self.known.clone());
        let put = move || {
            images.put(&module).map_err(Unloadable::Store)?;
            shrink(&known, &images, MAX_UNUSED_BYTES);
            Ok(())
        };
        blocking(put).await?;
        Ok(loaded)
    }

    /// Loads an image of the store.
    pub async fn load(&self, image: ImageId) -> Result<Arc<Image>, Unloadable> {
        self.load_with(image, None).await
    }

    async fn load_with(
        &self,
        image: ImageId,
        module: Option<bytes::Bytes>,
    ) -> Result<Arc<Image>, Unloadable> {
        let _wanted = self.want(image);
        let cell = self.cell(image);
        let load = || {
            let (engine, images) = (self.engine.clone(), self.images.clone());
            blocking(move || {
                let stored;
                let module = match &module {
                    Some(module) => &module[..],
                    None => {
                        stored = images.get(image).map_err(Unloadable::Store)?;
                        stored.as_deref().ok_or(Unloadable::Missing(image))?
                    }
                };
                Ok(engine.load(module)?)
            })
        };
        let loaded = cell.get_or_try_init(load).await.cloned()?;
        let mut known = self.known();
        known.alive.retain(|_, image| image.strong_count() > 0);
        known.alive.insert(image, Arc::downgrade(&loaded));
        Ok(loaded)
    }

    fn cell(&self, image: ImageId) -> Cell {
        let mut known = self.known();
        let Known { loaded, alive, .. } = &mut *known;
        let place = loaded.iter().position(|(id, _)| *id == image);
        let entry = place.and_then(|place| loaded.remove(place));
        // What runs is not loaded anew.
        let running = || alive.get(&image).and_then(Weak::upgrade);
        let entry = entry.unwrap_or_else(|| (image, Arc::new(OnceCell::new_with(running()))));
        let cell = entry.1.clone();
        // The latest used first.
        loaded.push_front(entry);
        // One that is being loaded stays: loaded twice at a time, it would have two lives.
        while loaded.len() > KEPT {
            let ready = loaded.iter().rposition(|(_, cell)| cell.initialized());
            match ready {
                Some(place) => drop(loaded.remove(place)),
                None => break,
            }
        }
        cell
    }
}

/// Removes stored modules that nothing uses, until they have no more than `most` bytes.
fn shrink(known: &Mutex<Known>, images: &Images, most: u64) {
    images.shrink(most, |image, act| {
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_used(image) {
            act();
        }
    });
}

/// Runs what computes or waits for the disk on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unloadable> + Send + 'static,
) -> Result<T, Unloadable> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Unloadable::Store(format!("loading failed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_module_stays_for_as_long_as_somebody_uses_its_image_or_is_about_to() {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::new(vm::Config::default()).unwrap();
        let loader = Loader::new(engine, Images::new(directory.path()));
        let text = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
        let module = wat::parse_str(text).unwrap();
        let used = loader.add(module.into()).await.unwrap();
        let id = used.id();
        let shrink = || shrink(&loader.known, &loader.images, 0);
        shrink();
        assert!(loader.images.has(id));
        // The background may still compile its other half.
        used.prepare_thaw().unwrap();
        let wanted = loader.want(id);
        drop(used);
        shrink();
        assert!(loader.images.has(id));
        drop(wanted);
        shrink();
        assert!(!loader.images.has(id));
    }
}
