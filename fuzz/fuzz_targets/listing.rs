//! Names in the listing of a container.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_storage::fuzzing::listing(data));
