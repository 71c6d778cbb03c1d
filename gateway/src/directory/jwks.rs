//! The keys of an issuer of tokens, and the task that fetches them if `auth.jwt.jwks` is a URL.
//!
//! ```text
//!   every auth.jwt.jwks_ttl ─┐
//!   SIGHUP ──────────────────┼─► this task fetches ─► the issuer's keys ─► tokens that waited are verified again
//!   a token with another key ┘
//! ```
//!
//! - The gateway starts without the keys and retries until it has them. A token that arrives while they are fetched waits for
//!   the answer.
//! - A token with an unknown key triggers a fetch and waits for it, so an issuer may change its keys at any time. There
//!   is at most one fetch every [`PAUSE`], so forged tokens cannot flood the issuer with requests. A token that comes
//!   during the pause is checked against the current keys only, and a fetch follows when the pause is over.
//! - While the server does not answer, or its answer is unusable, the current keys stay valid for [`KEPT`] more.

use super::hashing::Answer;
use super::jwt::{Issuer, Key};
use super::lent;
use crate::config::AuthJwt;
use crate::node::Node;
use crate::outbound::{self, Bounds, Client, Outage, Url};
use gatepost_core::properties::Name;
use serde_json::Value;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Keys with their key ids.
#[derive(Default)]
pub(super) struct Keys {
    all: Vec<(Option<String>, Key)>,
    /// When they become invalid; `None`: never, because they come from a file.
    until: Option<Instant>,
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

/// The URL that keys are fetched from.
pub(crate) struct Source {
    url: Url,
    text: String,
    client: Client,
    ttl: Duration,
}

/// Maximum keys that are read from a JWKS.
const KEYS_MAX: usize = 100;
/// Maximum bytes of a JWKS.
const ANSWER_BYTES_MAX: usize = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum time between two fetches.
const PAUSE: Duration = Duration::from_secs(5);
/// How long keys stay valid after `auth.jwt.jwks_ttl` has passed without a successful fetch.
const KEPT: Duration = Duration::from_secs(86_400);
/// Maximum tokens that wait for keys. Limits the memory that they take.
pub(super) const WAITING_MAX: usize = 256;

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

    async fn fetch(&self) -> Result<Keys, String> {
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

/// A token whose key is unknown, and the login that waits for it.
pub(crate) struct Waiting {
    pub user: Name,
    pub token: Box<[u8]>,
    pub to: Weak<dyn Answer>,
}

/// Fetches keys until the node ends.
pub(crate) async fn run(node: &Node, mut waiting: mpsc::Receiver<Waiting>) {
    let mut fetched: Option<Instant> = None;
    let mut due = Instant::now();
    let mut verified_again = Vec::new();
    loop {
        let issuer = node.directory.issuer();
        let source = issuer
            .as_ref()
            .and_then(|issuer| Some((issuer, issuer.source.as_ref()?)));
        let next = match source {
            Some((issuer, source)) => {
                if Instant::now() >= due && fetched.is_none_or(|at| at.elapsed() >= PAUSE) {
                    fetched = Some(Instant::now());
                    let good = fetch(node, issuer, source).await;
                    due = Instant::now() + if good { source.ttl } else { PAUSE };
                }
                due.max(fetched.map_or(due, |at| at + PAUSE))
            }
            // Keys come from a file, or `jwt` is off. A reload wakes this task if that changes.
            None => Instant::now() + KEPT,
        };
        for Waiting { user, token, to } in verified_again.drain(..) {
            let Some(waits) = Weak::upgrade(&to) else { continue };
            let answer = match &issuer {
                Some(issuer) => node
                    .directory
                    .check_token(Arc::clone(issuer), user, token, &waits, None),
                None => Some(lent::refused(user)),
            };
            if let Some(answer) = answer {
                waits.answer(answer);
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = node.directory.issuer_changed.notified() => {
                due = Instant::now();
                fetched = None;
            }
            Some(first) = waiting.recv() => {
                verified_again.push(first);
                while let Ok(next) = waiting.try_recv() {
                    verified_again.push(next);
                }
                due = Instant::now();
            }
        }
    }
}

/// Returns whether keys were received.
async fn fetch(node: &Node, issuer: &Issuer, source: &Source) -> bool {
    let url = &source.text;
    match source.fetch().await {
        Ok(keys) => {
            if keys.all != issuer.keys().all {
                tracing::info!(url, keys = keys.all.len(), "the keys of tokens are fetched");
            }
            issuer.set_keys(Arc::new(keys));
            node.directory.key_requests.count(true);
            true
        }
        Err(error) => {
            tracing::warn!(
                url,
                error,
                "the keys of tokens cannot be fetched: those that are known count on"
            );
            node.directory.key_requests.count(false);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_jwks_has_no_keys() {
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
        assert!(keys.find(None).is_none(), "they count no longer");
    }
}
