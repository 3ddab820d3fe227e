//! Requests of a guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_wasm::fuzzing::gate(data));
