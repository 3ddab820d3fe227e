//! The files in which Tahoe-LAFS keeps shares.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_storage::fuzzing::tahoe_file(data));
