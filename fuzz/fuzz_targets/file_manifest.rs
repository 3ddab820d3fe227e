//! Manifests of streams.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_array::fuzzing::manifest(data));
