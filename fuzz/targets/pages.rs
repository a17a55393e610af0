//! Pages of memory that come over a bulk link.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::pages(data));
