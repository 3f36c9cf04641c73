#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| nxt_mirror::fuzzing::description(input));
