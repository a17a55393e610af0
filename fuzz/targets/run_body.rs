//! The bodies of requests to run a program.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::run_body(data));
