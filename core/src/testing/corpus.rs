//! Replays the corpora of the fuzz targets, so that what they once found is tested without cargo-fuzz.

use std::path::Path;

/// Passes each file of `fuzz/corpus/<target>` to `fuzz`.
///
/// # Panics
/// If there is no file, or `fuzz` panics. The file's name is printed before.
pub fn replay(target: &str, mut fuzz: impl FnMut(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files: Vec<_> = std::fs::read_dir(&directory)
        .and_then(|files| files.map(|file| Ok(file?.path())).collect())
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    assert!(!files.is_empty(), "{} is empty", directory.display());
    for file in files {
        // Captured unless the test panics; then it names the file.
        println!("{}", file.display());
        fuzz(&std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
}

/// As [`replay`], and also passes a thousand mutants of each file: with one byte changed, or cut off.
///
/// # Panics
/// As [`replay`].
pub fn replay_mutants(target: &str, fuzz: fn(&[u8])) {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    replay(target, |data| {
        fuzz(data);
        for _ in 0..1000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let mut mutant = data.to_vec();
            let at = usize::try_from(seed >> 32).expect("small") % mutant.len().max(1);
            match mutant.get_mut(at) {
                Some(_) if seed.is_multiple_of(5) => mutant.truncate(at),
                Some(octet) => *octet = seed.to_le_bytes()[0],
                None => {}
            }
            fuzz(&mutant);
        }
    });
}
