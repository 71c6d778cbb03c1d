//! The node's directory: who may log in.
//!
//! Passwords are kept as RabbitMQ keeps them, a salt of 4 bytes followed by SHA-256 of salt and password: its
//! definitions can be taken over, and a check is cheap enough for an I/O thread. Slower hashes will need a thread.

use crate::config::{Anonymous, Config, Identity};
use crate::random::random;
use crate::{protocols, tls};
use gatepost_core::access::Rights;
use gatepost_core::command::{Login, Peer};
use gatepost_core::engine::Engine;
use gatepost_core::event::{Event, LoginFailure, LoginRefused};
use gatepost_core::properties::Name;
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Users, and the rules about logins without one.
pub(crate) struct Directory {
    /// Replaced as a whole by a reload. A login reads one of them from beginning to end.
    rules: RwLock<Rules>,
}

/// What a login is held against.
pub(crate) struct Rules {
    users: HashMap<Name, PasswordHash>,
    loopback_users: Vec<String>,
    anonymous: Anonymous,
    anonymous_user: Name,
    /// What names the user in a certificate.
    identity: Identity,
    /// Checked against where there is no such user, so that the time taken does not tell.
    nobody: PasswordHash,
}

impl Directory {
    /// With the default user, whose password is read from its file.
    ///
    /// # Errors
    /// The file cannot be read or is empty; the text names it.
    pub(crate) fn new(config: &Config) -> Result<Directory, String> {
        Ok(Directory {
            rules: RwLock::new(Rules::new(config)?),
        })
    }

    /// Holds later logins against other rules. Returns the users that are gone.
    pub(crate) fn replace(&self, rules: Rules) -> Vec<Name> {
        let mut current = self.rules.write();
        let before = std::mem::replace(&mut *current, rules);
        let after: Vec<Name> = current.users().collect();
        before.users().filter(|user| !after.contains(user)).collect()
    }

    /// Tells an engine what each user may do.
    // There are no rights of single users yet: who may log in may do everything.
    pub(crate) fn instruct(&self, engine: &mut Engine) {
        let all = Arc::new(Rights::all());
        for user in self.rules.read().users() {
            engine.set_rights(user, Arc::clone(&all));
        }
    }

    /// Answers `Authenticate`: `Authenticated` or `LoginRefused`. MQTT and STOMP know logins without a name.
    /// `anonymous`: what the listener says about them, if it has a rule of its own.
    pub(crate) fn authenticate(
        &self,
        protocol: &str,
        peer: &Peer,
        anonymous: Option<Anonymous>,
        login: Login,
    ) -> Event {
        let rules = self.rules.read();
        let answer = match login {
            // Nobody logs in with an empty password, so this is a name beside a certificate.
            Login::Password { user, password } if password.is_empty() && rules.takes_certificate(peer) => {
                rules.certificate(Some(user), peer)
            }
            Login::Password { user, password } => rules.password(user, &password, peer),
            Login::Certificate { user } => rules.certificate(user, peer),
            Login::Anonymous if rules.takes_certificate(peer) => rules.certificate(None, peer),
            Login::Anonymous => rules.without_name(protocol, peer, anonymous),
            // No mechanism with rounds is offered, so none can be under way.
            Login::Response { .. } => Err(LoginRefused {
                user: "".into(),
                why: LoginFailure::BadCredentials,
            }),
        };
        match answer {
            Ok(user) => Event::Authenticated { user },
            Err(refused) => Event::LoginRefused(Box::new(refused)),
        }
    }
}

impl Rules {
    /// The rules that the configuration states; the default user's password is read from its file.
    ///
    /// # Errors
    /// As [`Directory::new`].
    pub(crate) fn new(config: &Config) -> Result<Rules, String> {
        let auth = &config.auth;
        let mut users = HashMap::new();
        if !auth.default_user.is_empty() {
            let password = match auth.default_password_file.as_str() {
                "" => auth.default_user.clone(),
                path => password_of(path).map_err(|what| format!("{PASSWORD_FILE}: {what}"))?,
            };
            users.insert(
                Name::from(auth.default_user.as_str()),
                PasswordHash::new(password.as_bytes()),
            );
        }
        Ok(Rules {
            users,
            loopback_users: auth.loopback_users.clone(),
            anonymous: config.mqtt.anonymous,
            anonymous_user: config.mqtt.anonymous_user.as_str().into(),
            identity: config.certificate.identity,
            nobody: PasswordHash::new(b""),
        })
    }

    /// Whoever a login can come to.
    fn users(&self) -> impl Iterator<Item = Name> {
        let nameless = (self.anonymous != Anonymous::Deny).then_some(&self.anonymous_user);
        self.users.keys().chain(nameless).cloned()
    }

    fn password(&self, user: Name, password: &[u8], peer: &Peer) -> Result<Name, LoginRefused> {
        let known = self.users.get(&user);
        // Both sides are always computed. A blank password is refused whatever the hash says.
        let matches = known.unwrap_or(&self.nobody).matches(password);
        if !matches || known.is_none() || password.is_empty() {
            return Err(LoginRefused {
                user,
                why: LoginFailure::BadCredentials,
            });
        }
        // Only after the password: a stranger far away learns nothing about which users there are.
        if !peer.is_local && self.loopback_users.iter().any(|u| **u == *user) {
            return Err(LoginRefused {
                user,
                why: LoginFailure::LoopbackOnly,
            });
        }
        Ok(user)
    }

    /// Whether a login without credentials is meant to be one by certificate.
    fn takes_certificate(&self, peer: &Peer) -> bool {
        self.identity != Identity::None && peer.certificate.is_some()
    }

    /// By the name that the peer's certificate has proved; `said` is the one that the client gives, if it does.
    fn certificate(&self, said: Option<Name>, peer: &Peer) -> Result<Name, LoginRefused> {
        let certificate = peer.certificate.as_deref();
        let proved = certificate.and_then(|certificate| tls::identity(certificate, self.identity));
        let refused = |why| LoginRefused {
            user: proved.cloned().or_else(|| said.clone()).unwrap_or_else(|| "".into()),
            why,
        };
        let user = proved.filter(|user| said.as_ref().is_none_or(|said| said == *user));
        let Some((user, _)) = user.and_then(|user| self.users.get_key_value(user)) else {
            return Err(refused(LoginFailure::BadCredentials));
        };
        if !peer.is_local && self.loopback_users.iter().any(|u| **u == **user) {
            return Err(refused(LoginFailure::LoopbackOnly));
        }
        Ok(user.clone())
    }

    fn without_name(&self, protocol: &str, peer: &Peer, here: Option<Anonymous>) -> Result<Name, LoginRefused> {
        let allowed = match here.unwrap_or(self.anonymous) {
            Anonymous::Deny => false,
            Anonymous::Loopback => peer.is_local,
            Anonymous::Allow => true,
        };
        let nameless = protocols::ALL.iter().any(|p| p.name == protocol && p.nameless_logins);
        if allowed && nameless {
            Ok(self.anonymous_user.clone())
        } else {
            Err(LoginRefused {
                user: "".into(),
                why: LoginFailure::AnonymousRefused,
            })
        }
    }
}

/// A salt of 4 bytes, and SHA-256 of salt and password.
struct PasswordHash {
    salt: [u8; 4],
    hash: [u8; 32],
}

impl PasswordHash {
    fn new(password: &[u8]) -> PasswordHash {
        let [a, b, c, d, ..] = random().to_le_bytes();
        let salt = [a, b, c, d];
        PasswordHash {
            salt,
            hash: digest(salt, password),
        }
    }

    fn matches(&self, password: &[u8]) -> bool {
        digest(self.salt, password).ct_eq(&self.hash).into()
    }
}

fn digest(salt: [u8; 4], password: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(salt)
        .chain_update(password)
        .finalize()
        .into()
}

/// The key that names the default user's password file.
pub(crate) const PASSWORD_FILE: &str = "auth.default_password_file";

/// A password file: its first line.
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

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::command::{AlternativeName, Certificate};

    const HERE: &str = "127.0.0.1:40000";
    const HERE_MAPPED: &str = "[::ffff:127.0.0.1]:40000";
    const FAR: &str = "192.0.2.7:40000";

    fn login(directory: &Directory, protocol: &str, from: &str, login: Login) -> Result<String, LoginFailure> {
        let peer = Peer::at(from.parse().expect("an address"), None);
        match directory.authenticate(protocol, &peer, None, login) {
            Event::Authenticated { user } => Ok(user.to_string()),
            Event::LoginRefused(refused) => Err(refused.why),
            other => panic!("{other:?}"),
        }
    }

    fn password(user: &str, password: &str) -> Login {
        Login::Password {
            user: user.into(),
            password: password.as_bytes().into(),
        }
    }

    #[test]
    fn guest_logs_in_from_this_machine_only() {
        let directory = Directory::new(&Config::default()).expect("a directory");
        for here in [HERE, HERE_MAPPED, "[::1]:40000"] {
            assert_eq!(
                login(&directory, "amqp", here, password("guest", "guest")),
                Ok("guest".to_owned())
            );
        }
        let far = login(&directory, "amqp", FAR, password("guest", "guest"));
        assert_eq!(far, Err(LoginFailure::LoopbackOnly));
    }

    #[test]
    fn a_peer_without_an_address_is_local_only_if_it_is_said_to_be() {
        let directory = Directory::new(&Config::default()).expect("a directory");
        let guest = || password("guest", "guest");
        let somewhere = directory.authenticate("amqp", &Peer::default(), None, guest());
        assert!(matches!(somewhere, Event::LoginRefused(_)), "{somewhere:?}");
        let here = directory.authenticate("amqp", &Peer::on_this_machine(), None, guest());
        assert!(matches!(here, Event::Authenticated { .. }), "{here:?}");
    }

    #[test]
    fn a_wrong_or_blank_password_and_an_unknown_user_look_the_same() {
        let directory = Directory::new(&Config::default()).expect("a directory");
        for (user, secret) in [
            ("guest", "Guest"),
            ("guest", ""),
            ("nobody", ""),
            ("nobody", "guest"),
            ("", ""),
        ] {
            let answer = login(&directory, "stomp", HERE, password(user, secret));
            assert_eq!(answer, Err(LoginFailure::BadCredentials), "{user}:{secret}");
        }
        // Nor does a wrong password from far away say that the user exists.
        assert_eq!(
            login(&directory, "stomp", FAR, password("guest", "x")),
            Err(LoginFailure::BadCredentials)
        );
    }

    #[test]
    fn logins_without_a_name_follow_the_setting() {
        let mut config = Config::default();
        for (setting, here, far) in [
            (Anonymous::Deny, false, false),
            (Anonymous::Loopback, true, false),
            (Anonymous::Allow, true, true),
        ] {
            config.mqtt.anonymous = setting;
            let directory = Directory::new(&config).expect("a directory");
            assert_eq!(
                login(&directory, "mqtt", HERE, Login::Anonymous).is_ok(),
                here,
                "{setting:?}"
            );
            assert_eq!(
                login(&directory, "mqtt", HERE_MAPPED, Login::Anonymous).is_ok(),
                here,
                "{setting:?}"
            );
            assert_eq!(
                login(&directory, "mqtt", FAR, Login::Anonymous).is_ok(),
                far,
                "{setting:?}"
            );
            assert_eq!(
                login(&directory, "stomp", HERE, Login::Anonymous).is_ok(),
                here,
                "{setting:?}"
            );
            assert!(login(&directory, "amqp", HERE, Login::Anonymous).is_err());
        }
    }

    #[test]
    fn a_certificate_logs_in_the_user_it_names() {
        let certificate = Certificate {
            common_name: Some("guest".into()),
            alternative_names: [
                AlternativeName::Uri("urn:x".into()),
                AlternativeName::Dns("edge".into()),
            ]
            .into(),
        };
        let mut peer = Peer::at(HERE.parse().expect("an address"), None);
        peer.certificate = Some(certificate.into());
        let mut config = Config::default();
        let log_in = |config: &Config, peer: &Peer, login: Login| {
            let directory = Directory::new(config).expect("a directory");
            match directory.authenticate("mqtt", peer, None, login) {
                Event::Authenticated { user } => Ok(user.to_string()),
                Event::LoginRefused(refused) => Err((refused.user.to_string(), refused.why)),
                other => panic!("{other:?}"),
            }
        };
        let bad = |user: &str| Err((user.to_owned(), LoginFailure::BadCredentials));
        let guest = || Ok("guest".to_owned());
        let named = |user: &str| Login::Certificate {
            user: Some(user.into()),
        };
        assert_eq!(log_in(&config, &peer, Login::Certificate { user: None }), guest());
        assert_eq!(log_in(&config, &peer, Login::Anonymous), guest());
        assert_eq!(log_in(&config, &peer, named("guest")), guest());
        assert_eq!(log_in(&config, &peer, password("guest", "")), guest());
        // The certificate is another's, and a password is a password.
        assert_eq!(log_in(&config, &peer, named("admin")), bad("guest"));
        assert_eq!(log_in(&config, &peer, password("admin", "")), bad("guest"));
        assert_eq!(log_in(&config, &peer, password("guest", "wrong")), bad("guest"));

        let far = Peer {
            certificate: peer.certificate.clone(),
            ..Peer::at(FAR.parse().expect("an address"), None)
        };
        let refused = Err(("guest".to_owned(), LoginFailure::LoopbackOnly));
        assert_eq!(log_in(&config, &far, Login::Anonymous), refused);

        // It names somebody whom nobody knows: not anonymous either.
        config.certificate.identity = Identity::Dns;
        assert_eq!(log_in(&config, &peer, Login::Anonymous), bad("edge"));
        config.certificate.identity = Identity::Email;
        assert_eq!(log_in(&config, &peer, Login::Anonymous), bad(""));
        config.certificate.identity = Identity::None;
        assert_eq!(log_in(&config, &peer, Login::Anonymous), Ok("anonymous".to_owned()));
        assert_eq!(log_in(&config, &peer, named("guest")), bad("guest"));
        let nobody = Peer::at(HERE.parse().expect("an address"), None);
        assert_eq!(log_in(&Config::default(), &nobody, named("guest")), bad("guest"));
        assert_eq!(log_in(&Config::default(), &nobody, password("guest", "")), bad("guest"));
    }

    #[test]
    fn the_default_user_takes_its_password_from_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "s3cret\n").expect("written");
        let mut config = Config::default();
        config.auth.default_user = "edge".to_owned();
        config.auth.default_password_file = file.path().display().to_string();
        let directory = Directory::new(&config).expect("a directory");
        assert_eq!(
            login(&directory, "amqp", FAR, password("edge", "s3cret")),
            Ok("edge".to_owned())
        );
        std::fs::write(file.path(), "").expect("written");
        assert!(Directory::new(&config).is_err());
    }
}
