//! Messages that a guest wants to have signed.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_wasm::fuzzing::signing(data));
