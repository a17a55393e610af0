//! Checkpoint files, as given and with their checksum made right.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::checkpoint(data));
