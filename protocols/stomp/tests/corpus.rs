//! Replays the corpora of the fuzz targets, without cargo-fuzz. An input that once failed must pass.

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
