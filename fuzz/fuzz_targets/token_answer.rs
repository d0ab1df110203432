#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| osdatahub_auth::fuzzing::token_answer(data));
