//! Replays the corpora of the fuzz targets: what they once found stays found, without cargo-fuzz.

use gatepost_stomp::{fuzz_codec, fuzz_session};
use std::path::Path;

#[test]
fn the_corpus_of_the_codec_breaks_nothing() {
    replay("stomp_codec", fuzz_codec);
}

#[test]
fn the_corpus_of_the_session_breaks_nothing() {
    replay("stomp_session", fuzz_session);
}

fn replay(target: &str, fuzz: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
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
