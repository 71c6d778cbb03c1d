//! The task that fetches the keys of an issuer of tokens, if `auth.jwt.jwks` is a URL. See [`super::keys`].
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
use super::jwt::Issuer;
use super::keys::{KEPT, Source};
use super::temporary;
use crate::node::Node;
use gatepost_core::properties::Name;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Minimum time between two fetches.
const PAUSE: Duration = Duration::from_secs(5);
/// Maximum tokens that wait for keys. Limits the memory that they take.
pub(super) const WAITING_MAX: usize = 256;

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
                None => Some(temporary::refused(user)),
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
