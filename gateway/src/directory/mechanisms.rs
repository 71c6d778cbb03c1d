//! Logins by a mechanism that names itself (MQTT 5's authentication methods), in rounds if it needs them.
//!
//! | name | who | rounds |
//! |---|---|---|
//! | `SCRAM-SHA-256` | users that the log keeps, with a verifier of their password: see [`super::kept`] | one |
//! | `OAUTH2-JWT` | users that a token brings; the token is all that is said. The name is that of Azure Event Grid | none |
//!
//! A round costs a few hashes, so the connection's thread does it. What takes its time, making a verifier, is done when the
//! password is set, on a hashing thread.

use super::Directory;
use super::hashing::Answer;
use super::rules::Rules;
use super::scram::{ClientFirst, Exchange, SCRAM_SHA_256, Verifier};
use crate::secret;
use gatepost_core::event::{Event, LoginFailure, LoginRefused};
use gatepost_core::properties::Name;
use std::sync::Arc;

/// A token is all that is said.
pub(super) const OAUTH2_JWT: &str = "OAUTH2-JWT";
/// Those there are. The key `mqtt.auth_methods` says which are spoken.
pub(crate) const METHODS: &[&str] = &[SCRAM_SHA_256, OAUTH2_JWT];

/// The secret behind the salts of users that are not there. In the data directory: with another one at each start, asking
/// before and after it would tell who is there.
pub(super) const SECRET: &str = "scram-secret";

/// What a word of the client's leads to.
pub(crate) enum Round {
    /// The login is decided.
    Over(Event),
    /// It will be, by a wake.
    Later,
    /// The client is asked this, and then the login goes on with [`Directory::proceed`].
    Ask(Box<Exchange>, String),
}

impl Directory {
    /// Begins a login by mechanism.
    pub(crate) fn begin_rounds(&self, mechanism: &Name, data: Box<[u8]>, to: &Arc<dyn Answer>) -> Round {
        let rules = Arc::clone(&self.rules.read());
        let unknown = || Round::Over(refused("".into(), LoginFailure::UnknownMechanism));
        if !rules.methods.iter().any(|method| **method == **mechanism) {
            return unknown();
        }
        if **mechanism == *SCRAM_SHA_256 {
            return self.ask(&rules, &data);
        }
        let Some(issuer) = self.issuer() else {
            return unknown();
        };
        match self.check_token(issuer, "".into(), data, to, Some(self.unknown.clone())) {
            Some(answer) => Round::Over(answer),
            None => Round::Later,
        }
    }

    fn ask(&self, rules: &Rules, data: &[u8]) -> Round {
        let first = match ClientFirst::parse(data) {
            Ok(first) => first,
            Err(why) => {
                tracing::debug!(why, "what a SCRAM client says first was refused");
                return Round::Over(refused("".into(), LoginFailure::BadCredentials));
            }
        };
        let known = self.verifier(&first.user);
        let is_known = known.is_some();
        let verifier = known.unwrap_or_else(|| {
            let secret = self.decoys.get_or_init(|| {
                let otherwise = "after a restart, strangers can find out which users there are";
                secret::open(&self.data_dir.join(SECRET), otherwise)
            });
            Arc::new(Verifier::decoy(secret, &first.user, rules.scram_iterations))
        });
        let (exchange, question) = Exchange::begin(&first, verifier, is_known);
        Round::Ask(exchange, question)
    }

    /// The client has answered. `is_local`: it is on this machine.
    pub(crate) fn proceed(&self, exchange: &Exchange, data: &[u8], is_local: bool) -> Event {
        let user = exchange.user();
        let proof = exchange.finish(data).and_then(|proof| {
            // It may have another password by now, or be gone.
            let current = self.verifier(user);
            let is_current = current.is_some_and(|current| exchange.is_with(&current));
            is_current.then_some(proof).ok_or("the password was changed")
        });
        let proof = match proof {
            Ok(proof) => proof,
            Err(why) => {
                tracing::debug!(%user, why, "a SCRAM client was refused");
                return refused(user.clone(), LoginFailure::BadCredentials);
            }
        };
        match self.rules.read().verdict(user, true, is_local) {
            Ok(()) => Event::Authenticated {
                user: user.clone(),
                data: proof.into_bytes().into(),
            },
            Err(why) => refused(user.clone(), why),
        }
    }

    fn verifier(&self, user: &Name) -> Option<Arc<Verifier>> {
        let people = self.people.read();
        people.known(user)?.verifier.cloned()
    }
}

pub(crate) fn refused(user: Name, why: LoginFailure) -> Event {
    Event::LoginRefused(Box::new(LoginRefused { user, why }))
}
