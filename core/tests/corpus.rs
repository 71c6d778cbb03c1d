//! Replays the corpora of the fuzz targets, so that what they once found is tested without cargo-fuzz.

use gatepost_core::store::fuzz::{fuzz_record, fuzz_segment};
use gatepost_core::testing::corpus::replay;

#[test]
fn the_corpus_of_records_breaks_nothing() {
    replay("store_record", fuzz_record);
}

#[test]
fn the_corpus_of_segments_breaks_nothing() {
    replay("store_segment", fuzz_segment);
}
