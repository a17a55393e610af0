//! Reads the file that a command was given: it may be anything, a directory or a device without
//! end too.
//!
//! Only a file that begins as it should is read to its end; what is wrong with another is said by
//! whoever decodes it, for whom its beginning is enough.

use crate::failure::{Failure, code};
use daemon::{MAX_CHECKPOINT_BYTES, MAX_IMAGE_BYTES};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What every WebAssembly module begins with.
const MODULE_MAGIC: &[u8] = b"\0asm";

/// Reads a program, or at least the beginning of what is none. One that is there but cannot be
/// read cannot be run, as a shell would say.
pub fn module(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = File::open(path).and_then(|file| whole(file, MODULE_MAGIC, MAX_IMAGE_BYTES));
    read.map_err(|error| Failure::file("read", path, &error).or_code(code::NOT_RUNNABLE))
}

/// Reads a checkpoint file, or standard input if it is `-`.
pub fn checkpoint(path: &Path) -> Result<Vec<u8>, Failure> {
    let magic = &wire::checkpoint::MAGIC;
    if path == Path::new("-") {
        return whole(io::stdin(), magic, MAX_CHECKPOINT_BYTES)
            .map_err(|error| Failure::new(format!("cannot read standard input: {error}")));
    }
    let read = File::open(path).and_then(|file| whole(file, magic, MAX_CHECKPOINT_BYTES));
    read.map_err(|error| Failure::file("read", path, &error))
}

fn whole(mut source: impl Read, magic: &[u8], longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let begin = magic.len() as u64;
    source.by_ref().take(begin).read_to_end(&mut bytes)?;
    if bytes != magic {
        return Ok(bytes);
    }
    source.take(longest - begin + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::other(format!(
            "it is longer than {} MiB, the most that is taken",
            longest >> 20
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_wrong_is_not_read_on() {
        assert_eq!(whole(io::repeat(0), b"\0asm", 100).unwrap(), [0; 4]);
        assert_eq!(whole(&b""[..], b"\0asm", 100).unwrap(), b"");
        assert_eq!(whole(&b"\0a"[..], b"\0asm", 100).unwrap(), b"\0a");
        assert_eq!(whole(&b"\0asm1"[..], b"\0asm", 100).unwrap(), b"\0asm1");
    }

    #[test]
    fn what_is_too_long_is_not_read_on() {
        let endless = || (&b"\0asm"[..]).chain(io::repeat(7));
        let error = whole(endless(), b"\0asm", 2 << 20).unwrap_err();
        assert!(error.to_string().contains("2 MiB"), "{error}");
        let just = endless().take(2 << 20);
        assert_eq!(whole(just, b"\0asm", 2 << 20).unwrap().len(), 2 << 20);
    }
}
