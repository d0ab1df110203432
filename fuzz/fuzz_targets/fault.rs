//! Fuzz target: the parsers of a 401's body, which is JSON or XML.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| osdatahub_auth::fuzzing::fault(data));
