//! The headers that Tahoe-LAFS clients send.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_gateway::fuzzing::headers(data));
