//! Secrets in a guest's requests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_wasm::fuzzing::placeholders(data));
