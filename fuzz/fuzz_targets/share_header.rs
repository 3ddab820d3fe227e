//! Headers of shares.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_storage::fuzzing::share_header(data));
