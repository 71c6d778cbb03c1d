//! Replays the corpora of the fuzz targets: what they once found stays found, without cargo-fuzz.

use gatepost_core::store::fuzz::{fuzz_record, fuzz_segment};
use std::path::Path;

#[test]
fn the_corpus_of_records_breaks_nothing() {
    replay("store_record", fuzz_record);
}

#[test]
fn the_corpus_of_segments_breaks_nothing() {
    replay("store_segment", fuzz_segment);
}

fn replay(target: &str, fuzz: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|file| file.unwrap().path())
        .collect();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    for file in files {
        // Captured unless something panics: then it says which file it was.
        println!("{}", file.display());
        fuzz(&std::fs::read(&file).unwrap());
    }
}
