//! Compiled code on the node's own disk.
//!
//! An entry is named by a BLAKE3 hash over the module, the engine's version, and all settings and
//! processor features that the code depends on:
//! ```text
//! magic 8 | BLAKE3 of the code 32 | code
//! ```
//! Code is native and runs with the rights of this process, so it is only taken from files that
//! belong to this user and that no one else may write, in a directory of which the same is true;
//! it is never accepted from a peer. The checksum finds what a crash or a disk damaged. What is
//! missing, damaged or strange is compiled anew; a cache that cannot be written is no error.
#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::{Engine, Module};

const MAGIC: [u8; 8] = *b"LIMOSAC1";
const EXTENSION: &str = "code";
const HASH_BYTES: usize = 32;

/// A directory of compiled code.
pub(crate) struct Cache {
    directory: PathBuf,
    max_bytes: u64,
}

/// Feeds what implements `Hash` to BLAKE3.
struct Blake(blake3::Hasher);

impl Hasher for Blake {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

fn belongs_to_us(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

impl Cache {
    /// Opens the cache in `directory`, which is made if it is not there.
    pub(crate) fn open(directory: &Path, max_bytes: u64) -> io::Result<Cache> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
        let metadata = fs::metadata(directory)?;
        if !metadata.is_dir() || !belongs_to_us(&metadata) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it must be a directory that belongs to this user and that no one else may write",
            ));
        }
        Ok(Cache {
            directory: directory.to_owned(),
            max_bytes,
        })
    }

    fn path(&self, engine: &Engine, wasm: &[u8]) -> PathBuf {
        let mut hasher = Blake(blake3::Hasher::new());
        hasher.write(&MAGIC);
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
        hasher.write(blake3::hash(wasm).as_bytes());
        let name = hasher.0.finalize().to_hex();
        self.directory.join(name.as_str()).with_extension(EXTENSION)
    }

    /// Compiles `wasm`, unless its code is here.
    pub(crate) fn compile(&self, engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Module> {
        let path = self.path(engine, wasm);
        if let Ok(Some(module)) = load(engine, &path) {
            return Ok(module);
        }
        let module = Module::new(engine, wasm)?;
        let code = module.serialize()?;
        // The cache is a help: without room for it, everything works as before.
        let _ = self.store(&path, &code);
        Ok(module)
    }

    /// Writes beside and renames, so that no one sees half an entry.
    fn store(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.make_room(code.len() as u64)?;
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let aside = path.with_extension(format!("{}-{unique}", std::process::id()));
        let written = (|| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let mut file = File::from(rustix::fs::open(&aside, flags, mode)?);
            file.write_all(&MAGIC)?;
            file.write_all(blake3::hash(code).as_bytes())?;
            file.write_all(code)?;
            fs::rename(&aside, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }

    /// Removes the oldest entries until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                entries.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|entry| entry.1).sum();
        for (_, length, path) in entries {
            if total.saturating_add(bytes) <= self.max_bytes {
                break;
            }
            fs::remove_file(path)?;
            total -= length;
        }
        Ok(())
    }
}

/// The code at `path`, if it is there and can be trusted.
fn load(engine: &Engine, path: &Path) -> io::Result<Option<Module>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || !belongs_to_us(&metadata) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let Some(rest) = bytes.strip_prefix(&MAGIC) else {
        return Ok(None);
    };
    let Some((checksum, code)) = rest.split_first_chunk::<HASH_BYTES>() else {
        return Ok(None);
    };
    if blake3::hash(code).as_bytes() != checksum {
        return Ok(None);
    }
    // SAFETY: the bytes come from a file that only this user could write, under a name that hashes
    // this very engine's version and settings, and they are as they were written. Only `store`
    // writes such files, from `Module::serialize`. Who can forge one acts as this user already.
    let module = unsafe { Module::deserialize(engine, code) };
    Ok(module.ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const WASM: &[u8] = b"\0asm\x01\0\0\0";

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("limosa-cache-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn entries(path: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn code_is_found_again_and_damaged_code_is_not_run() {
        let path = directory("damage");
        let cache = Cache::open(&path, 1 << 20).unwrap();
        let engine = Engine::default();
        cache.compile(&engine, WASM).unwrap();
        let entry = entries(&path).pop().unwrap();
        assert!(load(&engine, &entry).unwrap().is_some());
        let good = fs::read(&entry).unwrap();
        for (at, length) in [
            (0, good.len()),
            (20, good.len()),
            (good.len() - 1, good.len()),
            (9, 9),
        ] {
            let mut bad = good[..length].to_vec();
            if let Some(byte) = bad.get_mut(at) {
                *byte ^= 1;
            }
            fs::write(&entry, &bad).unwrap();
            assert!(load(&engine, &entry).unwrap().is_none(), "{at} {length}");
        }
        cache.compile(&engine, WASM).unwrap();
        assert_eq!(fs::read(&entry).unwrap(), good);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn code_that_others_may_write_is_not_run() {
        let path = directory("rights");
        let cache = Cache::open(&path, 1 << 20).unwrap();
        let engine = Engine::default();
        cache.compile(&engine, WASM).unwrap();
        let entry = entries(&path).pop().unwrap();
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(load(&engine, &entry).unwrap().is_none());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(&path, 1 << 20).is_err());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn the_cache_stays_within_its_bounds() {
        let path = directory("bounds");
        let cache = Cache::open(&path, 250).unwrap();
        for name in ["a", "b", "c", "d"] {
            cache.store(&path.join(name), &[0; 60]).unwrap();
        }
        assert_eq!(entries(&path).len(), 2);
        fs::remove_dir_all(&path).unwrap();
    }
}
