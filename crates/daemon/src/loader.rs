//! Loaded programs: compiled once per image, shared by all who run it.

use crate::store::images::Images;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
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

/// Loads images, each once at a time.
#[derive(Debug)]
pub struct Loader {
    engine: Engine,
    images: Images,
    loaded: Mutex<VecDeque<(ImageId, Cell)>>,
}

impl Loader {
    /// A loader of the images in a store.
    pub fn new(engine: Engine, images: Images) -> Loader {
        Loader {
            engine,
            images,
            loaded: Mutex::default(),
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
        let images = self.images.clone();
        blocking(move || images.put(&module).map_err(Unloadable::Store)).await?;
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
        cell.get_or_try_init(load).await.cloned()
    }

    fn cell(&self, image: ImageId) -> Cell {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let place = loaded.iter().position(|(id, _)| *id == image);
        let entry = match place.and_then(|place| loaded.remove(place)) {
            Some(entry) => entry,
            None => (image, Cell::default()),
        };
        let cell = entry.1.clone();
        // The latest used first.
        loaded.push_front(entry);
        loaded.truncate(KEPT);
        cell
    }
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
