//! The bodies of the fuzz targets for login messages and for other brokers' files, and tests that replay their corpora.

use super::jwt::Issuer;
use super::keys::Keys;
use super::scram::{ClientFirst, Exchange, ITERATIONS_MIN, Verifier};
use super::{file, grants};
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

/// The key of a token in the corpus.
const JWKS: &str = "{\"keys\": [{\"kty\": \"RSA\", \"kid\": \"r\", \"e\": \"AQAB\", \"n\": \"\
    oS1BfpUkOdISyXTt3xAMHjPtVsCompuuJMsh_lrN2UPdfG3zUFskTM3GNGsdCG6mdleMDwfQHxopMtXj1Pn7mvJR6C_vV36FwJm7HKWnflVh0g\
    UdBV7GlpflZKU7MF--yagNwaJVL45o-m553mXhC8isWd7VdUCNyQh0y0Q-pKeNutxh7xkUaCb2XS9Qx7s6MjxQ_UBvbAhxUHBMq82cIfiYy02l\
    mfGUscR06IXA313soE0oRHX8wGLYuVAiJ74vOUFvFExQdJnIXr-bbGEQl8-hWvyr3Mwv1cogCYa9PWsWZb17d3pe0K8sRYagTpyBuxl_7QK8t6\
    4a4E9oqJjUOQ\"}]}";
/// A time in 2027. The token is valid until 2100.
const NOW: u64 = 1_800_000_000;

/// The first octet chooses how the rest is read: as a token, as the claims of a verified token, or as an issuer's keys.
///
/// # Panics
/// If a token is accepted that the issuer has not signed, or that has expired or is not valid yet.
pub fn fuzz_token(data: &[u8]) {
    static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
        let keys = Keys::parse(JWKS.as_bytes()).expect("a key");
        Issuer::with(&crate::config::Config::default(), keys, None)
    });
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let token = match choice % 3 {
        0 => {
            let token = ISSUER.verify(data, NOW);
            assert!(token.as_ref().is_ok_and(|token| &*token.user == "plant-1") || token.is_err());
            token
        }
        1 => match serde_json::from_slice(data) {
            Ok(claims) => ISSUER.claims(&claims, NOW),
            Err(_) => return,
        },
        _ => {
            let _ = Keys::parse(data).map(|keys| keys.find(None).is_some());
            return;
        }
    };
    if let Ok(token) = token {
        assert!(token.until > NOW && !token.user.is_empty() && token.user.len() <= super::NAME_MAX);
        for vhost in ["/", "v"] {
            token.grant.rights(vhost);
        }
        token.grant.memory();
    }
}

/// Reads `data` as one of Mosquitto's two files; the first octet chooses which.
///
/// # Panics
/// If a hash does not come back from the log as it was read.
pub fn fuzz_mosquitto(data: &[u8]) {
    if let Some((choice, text)) = data.split_first()
        && let Ok(text) = std::str::from_utf8(text)
    {
        file::read_as(text, choice % 2 == 0);
    }
}

/// Reads `data` as topic permissions.
///
/// # Panics
/// If a line is lost.
pub fn fuzz_grants(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(grants) = grants::parse(text) {
        let lines = text.lines().filter(|line| !line.is_empty()).count();
        assert_eq!(grants.granted.len() + grants.denied.len(), lines);
    }
}

/// Reads `data` as the two messages of a SCRAM client: the first line, and the rest.
///
/// # Panics
/// If a message is misread, or a client is accepted that does not know the password.
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

    #[test]
    fn the_corpus_of_tokens_breaks_nothing() {
        corpus::replay_mutants("token", fuzz_token);
    }

    #[test]
    fn the_corpus_of_mosquitto_s_files_breaks_nothing() {
        corpus::replay_mutants("mosquitto", fuzz_mosquitto);
    }

    #[test]
    fn the_corpus_of_topic_permissions_breaks_nothing() {
        corpus::replay_mutants("grants", fuzz_grants);
    }
}
