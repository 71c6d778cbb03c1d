//! The public keys of an issuer of tokens, as a JWKS (RFC 7517), and the URL that they are fetched from.

use crate::config::AuthJwt;
use crate::outbound::{self, Bounds, Client, Outage, Url};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Keys with their key ids.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) all: Vec<(Option<String>, Key)>,
    /// When they become invalid; `None`: never, because they come from a file.
    pub(super) until: Option<Instant>,
}

impl Keys {
    /// Reads the RSA and P-256 keys of a JWKS.
    ///
    /// # Errors
    /// The text is no JWKS, or has no such key.
    pub(super) fn parse(text: &[u8]) -> Result<Keys, String> {
        let set: Value = serde_json::from_slice(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let list = set["keys"].as_array().ok_or("it has no list \"keys\"")?;
        let read = |key: &Value| Some((key["kid"].as_str().map(str::to_owned), Key::parse(key)?));
        let all: Vec<_> = list.iter().take(KEYS_MAX).filter_map(read).collect();
        if all.is_empty() {
            return Err("it has no RSA or P-256 key".to_owned());
        }
        Ok(Keys { all, until: None })
    }

    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        match (kid, &*self.all) {
            (Some(kid), all) => all
                .iter()
                .find(|(known, _)| known.as_deref() == Some(kid))
                .map(|(_, key)| key),
            // A token need not name the key if there is only one.
            (None, [(_, key)]) => Some(key),
            (None, _) => None,
        }
    }
}

/// A public key.
#[derive(PartialEq)]
pub(super) enum Key {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
}

/// The URL that keys are fetched from.
pub(crate) struct Source {
    url: Url,
    pub(super) text: String,
    client: Client,
    pub(super) ttl: Duration,
}

/// Maximum keys that are read from a JWKS.
const KEYS_MAX: usize = 100;
/// Maximum bytes of a JWKS.
const ANSWER_BYTES_MAX: usize = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long keys stay valid after `auth.jwt.jwks_ttl` has passed without a successful fetch.
pub(super) const KEPT: Duration = Duration::from_secs(86_400);

impl Key {
    /// A key of a JWKS, if it is RSA or P-256.
    pub(super) fn parse(key: &Value) -> Option<Key> {
        let part = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
        Some(match (key["kty"].as_str()?, key["crv"].as_str()) {
            ("RSA", _) => Key::Rsa {
                n: part("n")?,
                e: part("e")?,
            },
            ("EC", Some("P-256")) => {
                let (x, y) = (part("x")?, part("y")?);
                Key::P256([&[4], &*x, &*y].concat())
            }
            _ => return None,
        })
    }

    pub(super) fn verifies(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (Key::Rsa { n, e }, "RS256") => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
            }
            (Key::P256(point), "ES256") => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                key.verify(signed, signature).is_ok()
            }
            _ => false,
        }
    }
}

impl Source {
    /// `None`: the keys are in a file.
    ///
    /// # Errors
    /// The URL is not valid, or the file of certificate authorities cannot be read.
    pub(super) fn of(jwt: &AuthJwt) -> Result<Option<Source>, String> {
        if !outbound::is_url(&jwt.jwks) {
            return Ok(None);
        }
        let bounds = Bounds {
            timeout: TIMEOUT,
            requests: 1,
            answer_bytes: ANSWER_BYTES_MAX,
        };
        Ok(Some(Source {
            url: Url::parse(&jwt.jwks)?,
            text: jwt.jwks.clone(),
            client: Client::new(&jwt.ca, bounds)?,
            ttl: jwt.jwks_ttl.0,
        }))
    }

    /// Fetches the keys.
    ///
    /// # Errors
    /// The server does not answer, or the answer has no usable key.
    pub(super) async fn fetch(&self) -> Result<Keys, String> {
        let answer = self
            .client
            .get(&self.url)
            .await
            .map_err(|outage: Outage| outage.to_string())?;
        let mut keys = Keys::parse(&answer)?;
        keys.until = Some(Instant::now() + self.ttl + KEPT);
        Ok(keys)
    }

    /// Whether both have the same URL, so that keys fetched from one are valid for the other.
    pub(super) fn is_like(&self, other: &Source) -> bool {
        self.url == other.url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_jwks_has_no_keys() {
        for text in [
            "",
            "x",
            "{}",
            "[]",
            "{\"keys\": 1}",
            "{\"keys\": []}",
            "{\"keys\": [{\"kty\": \"oct\"}]}",
        ] {
            assert!(Keys::parse(text.as_bytes()).is_err(), "{text}");
        }
        let good =
            "{\"keys\": [{\"kty\": \"RSA\", \"n\": \"AQAB\", \"e\": \"AQAB\"}, {\"kty\": \"EC\", \"crv\": \"P-521\"}]}";
        let mut keys = Keys::parse(good.as_bytes()).expect("a key");
        assert!(keys.find(None).is_some() && keys.find(Some("x")).is_none());
        keys.until = Some(Instant::now());
        assert!(keys.find(None).is_none(), "they are no longer valid");
    }
}
