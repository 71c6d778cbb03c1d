//! The configuration's rules about logins: from which addresses, without credentials, by certificate, by which mechanisms.

use super::Caller;
use super::hashing::Settings;
use super::password::{Cost, PasswordHash};
use super::people::{Backend, Known, People};
use super::scram::SCRAM_SHA_256;
use crate::config::{Anonymous, Config, Identity};
use crate::{protocols, tls};
use gatepost_core::command::{Login, Peer, Said};
use gatepost_core::event::{LoginFailure, LoginRefused};
use gatepost_core::properties::Name;
use gatepost_core::session::Description;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The rules, read from one configuration.
pub(crate) struct Rules {
    loopback_users: Vec<String>,
    anonymous: Anonymous,
    pub(super) anonymous_user: Name,
    /// The user that the first start creates.
    default_user: Name,
    /// Which field of a certificate names the user.
    identity: Identity,
    /// The hash that an unknown user's password is checked against.
    pub(super) decoy: Arc<PasswordHash>,
    /// Enabled SASL mechanisms (`mqtt.auth_methods`).
    pub(super) methods: Vec<Name>,
    /// Iterations of new verifiers, and of the decoys for unknown users.
    pub(super) scram_iterations: NonZeroU32,
    /// Maximum logins that may wait.
    pub(super) logins_waiting_max: usize,
}

/// The rules' decision about a login.
pub(super) enum Decision {
    /// Accepted as this user. If no other back end knows the name, the HTTP server is still asked whether the user exists.
    Yes(Name),
    No(LoginRefused),
    /// Depends on the password.
    Check {
        user: Name,
        password: Box<[u8]>,
        said: Said,
    },
}

/// The settings for hashing.
pub(super) fn hashing(config: &Config) -> Settings {
    let auth = &config.auth;
    let per_thread = auth.hashing_memory.0 / auth.hashing_threads.max(1) as u64;
    Settings {
        memory_kib_max: u32::try_from(per_thread >> 10).unwrap_or(u32::MAX),
        threads: auth.hashing_threads,
        queue_max: auth.logins_waiting_max,
        remember: auth.cache_ttl.0,
        cost: cost(config),
        iterations: speaks_scram(config).then(|| scram_iterations(config)),
    }
}

fn speaks_scram(config: &Config) -> bool {
    config.mqtt.auth_methods.iter().any(|method| method == SCRAM_SHA_256)
}

fn scram_iterations(config: &Config) -> NonZeroU32 {
    let iterations = u32::try_from(config.auth.scram_iterations).ok();
    iterations.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

/// Parameters of a new hash.
pub(crate) fn cost(config: &Config) -> Cost {
    Cost {
        memory_kib: u32::try_from(config.auth.argon2_memory.0 >> 10).unwrap_or(u32::MAX),
        passes: u32::try_from(config.auth.argon2_passes).unwrap_or(u32::MAX),
    }
}

/// The back ends, in the order in which they are asked.
pub(super) fn backends(config: &Config) -> Vec<Backend> {
    let of = |name: &String| {
        Backend::ALL
            .iter()
            .find(|(known, _)| *known == name.as_str())
            .map(|(_, backend)| *backend)
    };
    config.auth.backends.iter().filter_map(of).collect()
}

/// Maximum connections of a user without a limit of its own.
pub(super) fn connections_max(config: &Config) -> Option<u32> {
    let max = config.limits.max_connections_per_user;
    (max > 0).then(|| u32::try_from(max).unwrap_or(u32::MAX))
}

impl Rules {
    pub(super) fn new(config: &Config) -> Rules {
        Rules {
            loopback_users: config.auth.loopback_users.clone(),
            anonymous: config.mqtt.anonymous,
            anonymous_user: config.mqtt.anonymous_user.as_str().into(),
            default_user: config.auth.default_user.as_str().into(),
            identity: config.certificate.identity,
            decoy: Arc::new(PasswordHash::decoy(cost(config))),
            methods: config
                .mqtt
                .auth_methods
                .iter()
                .map(|method| method.as_str().into())
                .collect(),
            scram_iterations: scram_iterations(config),
            logins_waiting_max: config.auth.logins_waiting_max,
        }
    }

    /// Whether users may log in with SCRAM.
    pub(super) fn speaks_scram(&self) -> bool {
        self.methods.iter().any(|method| **method == *SCRAM_SHA_256)
    }

    /// Whether a SCRAM verifier must be made when the user's password is next known.
    pub(super) fn lacks_verifier(&self, known: &Known<'_>) -> bool {
        known.verifier.is_none() && known.backend == Backend::Internal && self.speaks_scram()
    }

    pub(super) fn decide(&self, from: &Caller<'_>, login: Login, people: &People) -> Decision {
        let decision = match login {
            // An empty password is never valid, so the client means to log in by its certificate.
            Login::Password { user, password, .. } if password.is_empty() && self.takes_certificate(from.peer) => {
                self.certificate(Some(user), from.peer, people)
            }
            Login::Password { user, .. } if self.is_stranger(from, &user, people) => {
                self.nameless(from, people).map_err(|_| LoginRefused {
                    user,
                    why: LoginFailure::BadCredentials,
                })
            }
            Login::Password { user, password, said } => {
                return Decision::Check { user, password, said };
            }
            Login::Renewal { user, .. } if people.known(&user).is_some() => Ok(user),
            Login::Renewal { user, secret } => {
                return Decision::Check {
                    user,
                    password: secret,
                    said: Said::default(),
                };
            }
            Login::Certificate { user } => self.certificate(user, from.peer, people),
            Login::Anonymous if self.takes_certificate(from.peer) => self.certificate(None, from.peer, people),
            Login::Anonymous => self.nameless(from, people),
            Login::Mechanism { .. } | Login::Response { .. } => Err(LoginRefused {
                user: "".into(),
                why: LoginFailure::UnknownMechanism,
            }),
        };
        match decision {
            Ok(user) => Decision::Yes(user),
            Err(refused) => Decision::No(refused),
        }
    }

    /// Checks the address only after the password: otherwise a remote client could find out which users exist.
    pub(super) fn verdict(&self, user: &Name, is_right: bool, is_local: bool) -> Result<(), LoginFailure> {
        if !is_right {
            return Err(LoginFailure::BadCredentials);
        }
        self.admit(user, is_local)
    }

    /// Refuses users that may log in from this machine only.
    fn admit(&self, user: &str, is_local: bool) -> Result<(), LoginFailure> {
        if !is_local && self.loopback_users.iter().any(|u| **u == *user) {
            return Err(LoginFailure::LoopbackOnly);
        }
        Ok(())
    }

    /// Whether to treat a login with an unknown name as one without. Many devices always send a name (Tasmota,
    /// ESPHome). It is ignored if clients without credentials are accepted here and no users were created yet.
    fn is_stranger(&self, from: &Caller<'_>, user: &Name, people: &People) -> bool {
        let takes_strangers = described(from.protocol).is_some_and(|p| p.strangers_are_nameless);
        let nobody_made_users = || {
            let known = |name: &Name| *name == self.default_user || *name == self.anonymous_user;
            people.users.keys().all(known)
        };
        takes_strangers
            && people.known(user).is_none()
            && people.file.users.is_empty()
            && people
                .backends
                .iter()
                .all(|backend| matches!(backend, Backend::Internal | Backend::File))
            && self.lets_in_nameless(from)
            && nobody_made_users()
    }

    /// Whether a login without credentials is meant to be one by certificate.
    fn takes_certificate(&self, peer: &Peer) -> bool {
        self.identity != Identity::None && peer.certificate.is_some()
    }

    /// Logs in by the name in the peer's certificate. `said`: the name that the client sent, if any; it must be the same.
    fn certificate(&self, said: Option<Name>, peer: &Peer, people: &People) -> Result<Name, LoginRefused> {
        let certificate = peer.certificate.as_deref();
        let proved = certificate.and_then(|certificate| tls::identity(certificate, self.identity));
        let refused = |why| LoginRefused {
            user: proved.cloned().or_else(|| said.clone()).unwrap_or_else(|| "".into()),
            why,
        };
        let user = proved.filter(|user| said.as_ref().is_none_or(|said| said == *user));
        let asks_server = people.backends.contains(&Backend::Http);
        let Some(user) = user.filter(|user| asks_server || people.known(user).is_some()) else {
            return Err(refused(LoginFailure::BadCredentials));
        };
        self.admit(user, peer.is_local).map_err(refused)?;
        Ok(user.clone())
    }

    fn lets_in_nameless(&self, from: &Caller<'_>) -> bool {
        let allowed = match from.anonymous.unwrap_or(self.anonymous) {
            Anonymous::Deny => false,
            Anonymous::Loopback => from.peer.is_local,
            Anonymous::Allow => true,
        };
        allowed && described(from.protocol).is_some_and(|p| p.nameless_logins)
    }

    fn nameless(&self, from: &Caller<'_>, people: &People) -> Result<Name, LoginRefused> {
        let refused = |user: &Name, why| LoginRefused {
            user: user.clone(),
            why,
        };
        if !self.lets_in_nameless(from) {
            return Err(refused(&"".into(), LoginFailure::AnonymousRefused));
        }
        let user = &self.anonymous_user;
        if people.known(user).is_none() {
            tracing::debug!(%user, "mqtt.anonymous_user is no user");
            return Err(refused(user, LoginFailure::AnonymousRefused));
        }
        self.admit(user, from.peer.is_local).map_err(|why| refused(user, why))?;
        Ok(user.clone())
    }
}

fn described(protocol: &str) -> Option<&'static Description> {
    protocols::ALL.iter().copied().find(|p| p.name == protocol)
}

/// The key that names the default user's password file.
pub(crate) const PASSWORD_FILE: &str = "auth.default_password_file";

/// Reads a password: the first line of the file.
///
/// # Errors
/// It cannot be read, or its first line is empty; the text names the file.
pub(crate) fn password_of(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(format!("{path} holds no password in its first line")),
    }
}
