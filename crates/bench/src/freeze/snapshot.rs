//! A snapshot as bytes, and back.

use crate::harness::Error;
use crate::stats::median;
use fastrand::Rng;
use std::time::Instant;
use wire::snapshot::{GlobalValue, Kernel, Memory, Phase, Snapshot};
use wire::{ArtefactId, ImageId};

/// Size of the memory.
pub(super) const MIB: usize = 8;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coding {
    pub bytes: usize,
    pub encode_ms: f64,
    pub decode_ms: f64,
}

/// Writes and reads a snapshot so many times.
pub(super) fn measure(repeats: usize) -> Result<Coding, Error> {
    let mut content = vec![0; MIB << 20];
    Rng::with_seed(11).fill(&mut content);
    let snapshot = Snapshot {
        image: ImageId([1; 32]),
        artefact: ArtefactId([2; 32]),
        phase: Phase::Main,
        frames: content[..4096].to_vec(),
        globals: vec![GlobalValue::I32(7)],
        references: Default::default(),
        memories: vec![Memory::from_bytes(&content, &[])],
        kernel: Kernel::default(),
        volumes: Vec::new(),
    };
    let (mut encode, mut decode, mut length) = (Vec::new(), Vec::new(), 0);
    for _ in 0..repeats {
        let start = Instant::now();
        let bytes = snapshot.encode();
        encode.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let read = Snapshot::decode(&bytes).map_err(|error| Error::Snapshot(error.to_string()))?;
        decode.push(start.elapsed().as_secs_f64() * 1e3);
        if read != snapshot {
            return Err(Error::Snapshot("it is not what was written".into()));
        }
        length = bytes.len();
    }
    Ok(Coding {
        bytes: length,
        encode_ms: median(&encode),
        decode_ms: median(&decode),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_memory_takes_its_own_size() {
        let coding = measure(1).unwrap();
        assert!(coding.bytes > MIB << 20 && coding.bytes < (MIB << 20) + 10_000);
    }
}
