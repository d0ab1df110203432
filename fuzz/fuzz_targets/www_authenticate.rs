//! Fuzz target: the parser of a 401's `WWW-Authenticate` header.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| osdatahub_auth::fuzzing::www_authenticate(data));
