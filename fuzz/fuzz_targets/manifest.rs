//! Manifests of connectors.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_wasm::fuzzing::manifest(data));
