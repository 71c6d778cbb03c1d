//! Replays the corpora of the fuzz targets: what they once found stays found, without cargo-fuzz.

use gatepost_core::testing::corpus::replay;
use gatepost_stomp::{fuzz_codec, fuzz_session};

#[test]
fn the_corpus_of_the_codec_breaks_nothing() {
    replay("stomp_codec", fuzz_codec);
}

#[test]
fn the_corpus_of_the_session_breaks_nothing() {
    replay("stomp_session", fuzz_session);
}
