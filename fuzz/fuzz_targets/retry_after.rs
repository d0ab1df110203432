//! Fuzz target: the parser of a `Retry-After` header.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| osdatahub_auth::fuzzing::retry_after(data));
