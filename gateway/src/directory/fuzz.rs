//! The bodies of the fuzz targets for what clients log in with, and a test that replays their corpora.

use super::scram::{ClientFirst, Exchange, ITERATIONS_MIN, Verifier};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Reads `data` as what a SCRAM client says first, up to the first line's end, and then.
///
/// # Panics
/// If what was read is not what was said, or somebody gets in who does not know the password.
pub fn fuzz_scram(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (first, then) = (
        data.get(..at).unwrap_or_default(),
        data.get(at + 1..).unwrap_or_default(),
    );
    if let Ok(text) = std::str::from_utf8(then)
        && let Some(verifier) = Verifier::parse(text)
    {
        assert_eq!(Verifier::parse(&verifier.text()), Some(verifier));
    }
    let Ok(read) = ClientFirst::parse(first) else { return };
    assert_eq!([read.header.as_bytes(), read.bare.as_bytes()].concat(), first);
    let escaped = read.user.replace('=', "=3D").replace(',', "=2C");
    assert!(read.bare.starts_with(&format!("n={escaped},r={}", read.nonce)));
    let iterations = NonZeroU32::new(ITERATIONS_MIN).expect("not 0");
    let verifier = Verifier::decoy(b"secret", &read.user, iterations);
    let (exchange, question) = Exchange::with_nonce(&read, Arc::new(verifier), true, "nonce");
    assert!(question.starts_with(&format!("r={}nonce,s=", read.nonce)));
    assert!(exchange.finish(then).is_err());
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::testing::corpus;

    #[test]
    fn the_corpus_of_scram_messages_breaks_nothing() {
        corpus::replay_mutants("scram", fuzz_scram);
    }
}
