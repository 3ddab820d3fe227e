//! The documents that Tahoe-LAFS clients send, in CBOR.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raic_gateway::fuzzing::documents(data));
