#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_core::store::fuzz::fuzz_segment(data));
