//! Verbs: users.

use super::hashing::Answer;
use super::kept::{Kept, verifier};
use super::password::{PASSWORD_BYTES_MAX, PasswordHash};
use super::scram::Verifier;
use super::{Caller, DirectoryError, NAME_MAX, Obsolete, Put};
use crate::node::Node;
use gatepost_core::catalog::directory::{
    LimitOf, LimitRecord, PermissionRecord, TopicPermissionRecord, UserRecord, deletion, record,
};
use gatepost_core::command::{Login, Peer, Said};
use gatepost_core::event::{CloseReason, Event, LoginFailure};
use gatepost_core::properties::Name;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A user's new credential.
pub(crate) enum Credential {
    /// A password, which is hashed here.
    Password(Box<[u8]>),
    /// A hash that another broker exported; see [`PasswordHash::import`]. `scram`: the verifier that a gateway exported with
    /// it, as [`Verifier::text`] writes it.
    Hash {
        algorithm: String,
        hash: String,
        scram: Option<String>,
    },
    /// No password: the user can log in by certificate only.
    Nothing,
}

/// A user, for lists and exports. Contains the password's hash, so do not show it whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserEntry {
    pub name: Name,
    pub tags: Vec<Name>,
    pub hashing_algorithm: Name,
    pub password_hash: Vec<u8>,
    /// See [`Verifier::text`].
    pub scram: Option<String>,
    /// Open connections and channels.
    pub connections: u32,
    pub channels: u32,
}

impl Node {
    /// Creates a user.
    ///
    /// # Errors
    /// The name is taken, or the name or the credential is not valid.
    pub(crate) async fn add_user(
        &self,
        name: &str,
        credential: Credential,
        tags: Vec<Name>,
    ) -> Result<(), DirectoryError> {
        let made = self.hash(name, credential).await?;
        let changing = self.directory.changing.lock().await;
        if self.directory.people.read().users.contains_key(name) {
            return Err(DirectoryError::UserExists(name.into()));
        }
        self.write_user(&changing, name.into(), |record| set(record, &made, tags))
            .await
    }

    /// Creates a user, or replaces it. Its permissions and limits stay.
    ///
    /// # Errors
    /// The name or the credential is not valid.
    pub(crate) async fn put_user(
        &self,
        name: &str,
        credential: Credential,
        tags: Vec<Name>,
    ) -> Result<Put, DirectoryError> {
        let made = self.hash(name, credential).await?;
        let changing = self.directory.changing.lock().await;
        let there = self.directory.people.read().users.contains_key(name);
        self.write_user(&changing, name.into(), |record| set(record, &made, tags))
            .await?;
        Ok(if there { Put::Changed } else { Put::Created })
    }

    /// Changes a user's password. Open connections stay.
    ///
    /// # Errors
    /// There is no such user, or the credential is not valid.
    pub(crate) async fn change_password(&self, name: &str, credential: Credential) -> Result<(), DirectoryError> {
        let made = self.hash(name, credential).await?;
        let changing = self.directory.changing.lock().await;
        self.known_user(name)?;
        self.write_user(&changing, name.into(), |record| made.write(record))
            .await
    }

    /// Changes a user's tags.
    ///
    /// # Errors
    /// There is no such user.
    pub(crate) async fn set_user_tags(&self, name: &str, tags: Vec<Name>) -> Result<(), DirectoryError> {
        let changing = self.directory.changing.lock().await;
        self.known_user(name)?;
        self.write_user(&changing, name.into(), |record| record.tags = tags)
            .await
    }

    /// Deletes a user with its permissions and limits, and ends its connections.
    ///
    /// # Errors
    /// There is no such user.
    pub(crate) async fn delete_user(&self, name: &str) -> Result<(), DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        let user = self.known_user(name)?;
        let mut records = vec![deletion::<UserRecord>(&user)];
        {
            let people = self.directory.people.read();
            for (u, vhost) in people.permissions.keys().filter(|(u, _)| *u == user) {
                records.push(deletion::<PermissionRecord>(&(*vhost, u.clone())));
            }
            for (u, vhost, exchange) in people.topics.keys().filter(|(u, ..)| *u == user) {
                records.push(deletion::<TopicPermissionRecord>(&(
                    *vhost,
                    u.clone(),
                    exchange.clone(),
                )));
            }
            if people.limits.contains_key(&LimitOf::User(user.clone())) {
                records.push(deletion::<LimitRecord>(&LimitOf::User(user.clone())));
            }
        }
        self.vhosts.log().write(records).await?;
        self.directory.people.write().remove_user(&user);
        let vhosts = self.vhosts.list();
        self.directory.push_user(&vhosts, &user);
        for vhost in vhosts.iter() {
            vhost.enter(|engine| engine.end_user(&user, CloseReason::UserDeleted));
        }
        tracing::info!(%user, "user deleted");
        Ok(())
    }

    /// All users, by name.
    pub(crate) fn users(&self) -> Vec<UserEntry> {
        let people = self.directory.people.read();
        people.users.iter().map(|(name, user)| entry(name, user)).collect()
    }

    /// One user.
    pub(crate) fn user(&self, name: &str) -> Option<UserEntry> {
        let people = self.directory.people.read();
        people.users.get_key_value(name).map(|(name, user)| entry(name, user))
    }

    /// Checks a password, or a token in its place, for the management interface. `is_local`: the request comes from this
    /// machine. Returns the user's name (a token's name may differ from `name`) and tags.
    ///
    /// # Errors
    /// Why the login is refused.
    pub(crate) async fn log_in(
        &self,
        name: &str,
        password: &[u8],
        is_local: bool,
    ) -> Result<(Name, Vec<Name>), LoginFailure> {
        let (answered, answer) = oneshot::channel();
        let to: Arc<dyn Answer> = Arc::new(Once(Mutex::new(Some(answered))));
        let peer = Peer {
            is_local,
            ..Peer::default()
        };
        let caller = Caller {
            protocol: "http",
            peer: &peer,
            anonymous: None,
        };
        let login = Login::Password {
            user: name.into(),
            password: password.into(),
            said: Said::default(),
        };
        let event = match self.directory.authenticate(&caller, login, &to) {
            Some(event) => event,
            None => answer.await.map_err(|_| LoginFailure::Busy)?,
        };
        match event {
            Event::Authenticated { user, .. } => {
                let tags = self.directory.people.read().tags(&user);
                tags.map(|tags| (user, tags)).ok_or(LoginFailure::BadCredentials)
            }
            Event::LoginRefused(refused) => Err(refused.why),
            _ => Err(LoginFailure::BadCredentials),
        }
    }
}

/// A successful login, to check later whether it is still valid.
#[derive(Clone, Default)]
pub(crate) struct Standing {
    user: Name,
    /// The password's hash at the login. Users of tokens and of the HTTP back end have none.
    hash: Option<Arc<PasswordHash>>,
}

impl Node {
    /// Whether a user's messages may name another user as their sender.
    pub(crate) fn impersonates(&self, user: &str) -> bool {
        self.directory.people.read().impersonates(user)
    }

    /// Remembers the login of a user that has just logged in.
    pub(crate) fn standing(&self, user: &Name) -> Standing {
        let people = self.directory.people.read();
        Standing {
            user: user.clone(),
            hash: people.known(user).map(|known| Arc::clone(known.hash)),
        }
    }

    /// The user and its current tags, unless its password was changed or it was deleted.
    pub(crate) fn still(&self, standing: &Standing) -> Option<(Name, Vec<Name>)> {
        let people = self.directory.people.read();
        let same = match (people.known(&standing.user).map(|known| known.hash), &standing.hash) {
            (Some(now), Some(then)) => Arc::ptr_eq(now, then),
            (None, None) => true,
            _ => false,
        };
        let tags = people.tags(&standing.user).filter(|_| same)?;
        Some((standing.user.clone(), tags))
    }

    /// The vhosts that a user may use.
    pub(crate) fn vhosts_of(&self, user: &Name) -> BTreeSet<Name> {
        let vhosts = self.vhosts.list();
        let people = self.directory.people.read();
        let may = vhosts
            .iter()
            .filter(|vhost| people.may_enter(user, vhost.number, &vhost.name));
        may.map(|vhost| vhost.name.clone()).collect()
    }

    /// The user's name, if there is that user.
    pub(super) fn known_user(&self, name: &str) -> Result<Name, DirectoryError> {
        let people = self.directory.people.read();
        let known = people.users.get_key_value(name).map(|(name, _)| name.clone());
        known.ok_or_else(|| DirectoryError::NoSuchUser(name.into()))
    }

    /// Checks the name and credential of a new user.
    ///
    /// # Errors
    /// The name or the credential is not valid.
    pub(crate) fn check_user(&self, name: &str, credential: &Credential) -> Result<(), DirectoryError> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(char::is_control) {
            return Err(DirectoryError::Name);
        }
        match credential {
            Credential::Nothing => Ok(()),
            Credential::Password(password) if password.is_empty() || password.len() > PASSWORD_BYTES_MAX => {
                Err(DirectoryError::Password)
            }
            Credential::Password(_) => Ok(()),
            Credential::Hash { algorithm, hash, scram } => {
                self.import_hash(algorithm, hash, scram.as_deref()).map(drop)
            }
        }
    }

    fn import_hash(&self, algorithm: &str, hash: &str, scram: Option<&str>) -> Result<Kept, DirectoryError> {
        let hash = PasswordHash::import(algorithm, hash).map_err(DirectoryError::Hash)?;
        let max = self.directory.hashing.memory_kib_max();
        if hash.memory_kib() > max {
            let needs = hash.memory_kib();
            let text = format!("the hash needs {needs} KiB, and a login may use {max} (auth.hashing_memory)");
            return Err(DirectoryError::Hash(text));
        }
        let wrong = || DirectoryError::Hash("the SCRAM verifier is not valid".to_owned());
        let verifier = scram.map(|text| Verifier::parse(text).ok_or_else(wrong)).transpose()?;
        // It is weaker than the hash, so it is kept only where it is used.
        let verifier = verifier.filter(|_| self.directory.hashing.new_passwords().1.is_some());
        Ok(Kept::imported(hash, verifier))
    }

    async fn hash(&self, name: &str, credential: Credential) -> Result<Kept, DirectoryError> {
        self.check_user(name, &credential)?;
        match credential {
            Credential::Nothing => Ok(PasswordHash::Nothing.into()),
            Credential::Password(password) => {
                let made = self.directory.hashing.make(&password).await;
                made.map_err(|_| DirectoryError::Hash("no thread to hash the password".to_owned()))
            }
            Credential::Hash { algorithm, hash, scram } => self.import_hash(&algorithm, &hash, scram.as_deref()),
        }
    }

    /// Changes a user's record, or creates it. The guard proves that the caller holds `changing`.
    async fn write_user(
        &self,
        _changing: &tokio::sync::MutexGuard<'_, ()>,
        name: Name,
        change: impl FnOnce(&mut UserRecord),
    ) -> Result<(), DirectoryError> {
        let known = self
            .directory
            .people
            .read()
            .users
            .get(&name)
            .map(|user| user.record.clone());
        let mut user = known.unwrap_or_default();
        change(&mut user);
        self.vhosts.log().write(vec![record(&name, &user)]).await?;
        self.directory.people.write().put_user(name.clone(), user);
        tracing::info!(user = %name, "user changed");
        Ok(())
    }
}

fn set(record: &mut UserRecord, kept: &Kept, tags: Vec<Name>) {
    kept.write(record);
    record.tags = tags;
}

fn entry(name: &Name, user: &super::people::User) -> UserEntry {
    UserEntry {
        name: name.clone(),
        tags: user.record.tags.clone(),
        hashing_algorithm: user.record.hashing_algorithm.clone(),
        password_hash: user.record.password_hash.clone(),
        scram: verifier(&user.record).map(|verifier| verifier.text()),
        connections: user.quota.connections(),
        channels: user.quota.channels(),
    }
}

/// Sends the single answer to the task that waits for it.
struct Once(Mutex<Option<oneshot::Sender<Event>>>);

impl Answer for Once {
    fn answer(&self, event: Event) {
        if let Some(waiting) = self.0.lock().take() {
            // The request may have been cancelled.
            let _ = waiting.send(event);
        }
    }
}

/// Replaces obsolete hashes and adds SCRAM verifiers, with the passwords of successful logins. Runs until the node ends.
pub(crate) async fn renew(node: &Node, mut obsolete: mpsc::Receiver<Obsolete>) {
    while let Some(Obsolete { user, hash, password }) = obsolete.recv().await {
        let Ok(made) = node.directory.hashing.make(&password).await else {
            continue;
        };
        let changing = node.directory.changing.lock().await;
        // The password may have been changed meanwhile, or the user deleted.
        let current = node
            .directory
            .people
            .read()
            .users
            .get(&user)
            .map(|user| Arc::clone(&user.hash));
        if !current.is_some_and(|current| Arc::ptr_eq(&current, &hash)) {
            continue;
        }
        if let Err(error) = node.write_user(&changing, user, |record| made.write(record)).await {
            tracing::warn!(%error, "a password could not be hashed anew");
        }
    }
}
