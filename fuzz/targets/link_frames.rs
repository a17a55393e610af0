//! Messages on links between nodes, cut in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::link_frames(data));
