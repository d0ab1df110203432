//! Fuzz target: the parser of the token endpoint's response body.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| osdatahub_auth::fuzzing::token_answer(data));
