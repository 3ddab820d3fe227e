//! Recovery keys and keyrings.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_array::fuzzing::keys(data));
