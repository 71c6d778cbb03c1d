#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_stomp::fuzz_codec(data));
