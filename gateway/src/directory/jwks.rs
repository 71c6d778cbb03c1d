//! The keys of an issuer of tokens, and how they are fetched where `auth.jwt.jwks` is a URL.
//!
//! ```text
//!   every auth.jwt.jwks_ttl ─┐
//!   SIGHUP ──────────────────┼─► this task fetches ─► the issuer's keys ─► tokens that waited are verified again
//!   a token with another key ┘
//! ```
//!
//! - The gateway starts without the keys, and asks again until it has them. A token that comes before waits.
//! - A token that names a key that is not there has the keys fetched, at most every [`PAUSE`], and waits for that. So an issuer
//!   may change its key at any time, and a flood of invented tokens is no flood of requests.
//! - While the server does not answer, or answers nonsense, the keys that are there count for [`KEPT`] more.

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

/// Keys, by their names.
#[derive(Default)]
pub(super) struct Keys {
    all: Vec<(Option<String>, Key)>,
    /// They do not count later.
    until: Option<Instant>,
}

impl Keys {
    /// Those of a JWKS that we can use.
    ///
    /// # Errors
    /// There is none.
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
            // Where there is one key, nobody need say which.
            (None, [(_, key)]) => Some(key),
            (None, _) => None,
        }
    }
}

/// Where keys are fetched.
pub(crate) struct Source {
    url: Url,
    text: String,
    client: Client,
    ttl: Duration,
}

/// Keys that are read of one JWKS.
const KEYS_MAX: usize = 100;
/// Bytes of a JWKS.
const ANSWER_BYTES_MAX: usize = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two fetches, whatever asks for them.
const PAUSE: Duration = Duration::from_secs(5);
/// How long keys count after the last time they were fetched, beyond `auth.jwt.jwks_ttl`.
const KEPT: Duration = Duration::from_secs(86_400);
/// Tokens that wait for keys. Each is in memory.
pub(super) const WAITING_MAX: usize = 256;

impl Source {
    /// `None`: the keys are in a file.
    ///
    /// # Errors
    /// The URL is none, or the authorities cannot be read.
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

    /// The same keys are expected from both.
    pub(super) fn is_like(&self, other: &Source) -> bool {
        self.url == other.url
    }
}

/// A token whose key is not there, and who waits for its login.
pub(crate) struct Waiting {
    pub user: Name,
    pub token: Box<[u8]>,
    pub to: Weak<dyn Answer>,
}

/// Fetches keys, for ever.
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
            // There is nothing to fetch, until another configuration says so.
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

/// Returns whether there are new keys.
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
