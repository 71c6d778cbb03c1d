//! Replays the corpora of the fuzz targets, without cargo-fuzz. An input that once failed must pass.

use gatepost_amqp::{fuzz_codec, fuzz_session};
use gatepost_core::testing::corpus::replay;

#[test]
fn the_corpus_of_the_codec_breaks_nothing() {
    replay("amqp_codec", fuzz_codec);
}

#[test]
fn the_corpus_of_the_session_breaks_nothing() {
    replay("amqp_session", fuzz_session);
}
