//! Names of shares' objects.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_storage::fuzzing::object_name(data));
