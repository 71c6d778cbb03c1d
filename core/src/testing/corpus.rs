//! Replays the corpora of the fuzz targets: what they once found stays found, without cargo-fuzz.

use std::path::Path;

/// Gives each file of `fuzz/corpus/<target>` to the body of that target.
///
/// # Panics
/// If there is no file, or the body panics: the file is named before.
pub fn replay(target: &str, mut fuzz: impl FnMut(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files: Vec<_> = std::fs::read_dir(&directory)
        .and_then(|files| files.map(|file| Ok(file?.path())).collect())
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    assert!(!files.is_empty(), "{} is empty", directory.display());
    for file in files {
        // Captured unless something panics: then it says which file it was.
        println!("{}", file.display());
        fuzz(&std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
}
