//! Logins by a SASL mechanism that the client names (MQTT 5's authentication methods), in several rounds if it needs them.
//!
//! | name | who | rounds |
//! |---|---|---|
//! | `SCRAM-SHA-256` | users of the log that have a verifier of their password: see [`super::kept`] | one |
//! | `OAUTH2-JWT` | users of tokens; the token is the only message. The name is Azure Event Grid's | none |
//!
//! A round costs a few hashes, so the connection's I/O thread does it. The slow part, making a verifier, happens on a hashing
//! thread when the password is set.

use super::Directory;
use super::hashing::Answer;
use super::rules::Rules;
use super::scram::{ClientFirst, Exchange, SCRAM_SHA_256, Verifier};
use crate::secret;
use gatepost_core::event::{Event, LoginFailure, LoginRefused};
use gatepost_core::properties::Name;
use std::sync::Arc;

/// The mechanism whose only message is a token.
pub(super) const OAUTH2_JWT: &str = "OAUTH2-JWT";
/// All implemented mechanisms. The key `mqtt.auth_methods` says which are enabled.
pub(crate) const METHODS: &[&str] = &[SCRAM_SHA_256, OAUTH2_JWT];

/// File of the secret from which salts of unknown users are derived. It is kept in the data directory: with a new
/// secret at each start, an unknown user's salt would change over a restart and reveal that the user does not exist.
pub(super) const SECRET: &str = "scram-secret";

/// The result of a client's message.
pub(crate) enum Round {
    /// The login is decided.
    Over(Event),
    /// The answer comes later, by a wake.
    Later,
    /// The challenge for the client. [`Directory::proceed`] takes its answer.
    Ask(Box<Exchange>, String),
}

impl Directory {
    /// Begins a login by a mechanism.
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

    /// Takes the client's answer and decides the login. `is_local`: the client is on this machine.
    pub(crate) fn proceed(&self, exchange: &Exchange, data: &[u8], is_local: bool) -> Event {
        let user = exchange.user();
        let proof = exchange.finish(data).and_then(|proof| {
            // The password may have been changed meanwhile, or the user deleted.
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
                impersonates: false,
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
