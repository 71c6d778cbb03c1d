//! The node's directory: who may log in.
//!
//! Passwords are kept as RabbitMQ keeps them, a salt of 4 bytes followed by SHA-256 of salt and password: its
//! definitions can be taken over, and a check is cheap enough for an I/O thread. Slower hashes will need a thread.

use crate::config::{Anonymous, Config};
use crate::protocols;
use crate::random::random;
use gatepost_core::command::{Login, Peer};
use gatepost_core::event::{Event, LoginFailure, LoginRefused};
use gatepost_core::properties::Name;
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
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

    /// Holds later logins against other rules.
    pub(crate) fn replace(&self, rules: Rules) {
        *self.rules.write() = rules;
    }

    /// Answers `Authenticate`: `Authenticated` or `LoginRefused`. MQTT and STOMP know logins without a name.
    pub(crate) fn authenticate(&self, protocol: &str, peer: &Peer, login: Login) -> Event {
        let rules = self.rules.read();
        let answer = match login {
            Login::Password { user, password } => rules.password(user, &password, peer),
            Login::Anonymous => rules.without_name(protocol, peer),
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
            nobody: PasswordHash::new(b""),
        })
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

    fn without_name(&self, protocol: &str, peer: &Peer) -> Result<Name, LoginRefused> {
        let allowed = match self.anonymous {
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

    const HERE: &str = "127.0.0.1:40000";
    const HERE_MAPPED: &str = "[::ffff:127.0.0.1]:40000";
    const FAR: &str = "192.0.2.7:40000";

    fn login(directory: &Directory, protocol: &str, from: &str, login: Login) -> Result<String, LoginFailure> {
        let peer = Peer::at(from.parse().expect("an address"), None);
        match directory.authenticate(protocol, &peer, login) {
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
        let somewhere = directory.authenticate("amqp", &Peer::default(), guest());
        assert!(matches!(somewhere, Event::LoginRefused(_)), "{somewhere:?}");
        let here = directory.authenticate("amqp", &Peer::on_this_machine(), guest());
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
