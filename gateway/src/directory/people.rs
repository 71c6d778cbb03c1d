//! Users, permissions and limits in memory: those of the log, of Mosquitto's files and of tokens.

use super::file::FilePeople;
use super::jwt::Grant;
use super::password::PasswordHash;
use super::scram::Verifier;
use super::{DirectoryError, grants, kept};
use crate::node::DEFAULT_VHOST;
use gatepost_core::access::{NamePattern, Rights};
use gatepost_core::catalog::directory::{
    LimitOf, LimitRecord, ParameterRecord, PermissionRecord, TopicPermissionRecord, UserRecord, known,
};
use gatepost_core::properties::{Name, Value};
use gatepost_core::quota::{Quota, VhostLimits};
use gatepost_core::store::{Recovered, VhostId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A user.
pub(crate) struct User {
    /// The record in the log.
    pub record: UserRecord,
    /// The hash in the record, parsed. Replaced only when the password changes: caches compare the pointer.
    pub hash: Arc<PasswordHash>,
    /// The SCRAM verifier in the record, if there is one.
    pub verifier: Option<Arc<Verifier>>,
    /// Open connections and channels. Stays the same object when the user is changed, so that the count stays right.
    pub quota: Arc<Quota>,
}

/// All users of the node.
pub(crate) struct People {
    pub users: BTreeMap<Name, User>,
    /// Ordered by user, so that a user's permissions are one range.
    pub permissions: BTreeMap<(Name, VhostId), PermissionRecord>,
    pub topics: BTreeMap<(Name, VhostId, Name), TopicPermissionRecord>,
    pub limits: BTreeMap<LimitOf, LimitRecord>,
    /// Global parameters.
    pub globals: BTreeMap<Name, Value>,
    /// Maximum connections of a user without a limit of its own.
    pub connections_max: Option<u32>,
    /// Users of Mosquitto's files.
    pub file: FilePeople,
    /// Users of tokens and of the HTTP back end.
    pub temporary: BTreeMap<Name, TemporaryUser>,
    /// Memory of the users in `temporary`, and its limit.
    pub outside_bytes: usize,
    pub outside_bytes_max: usize,
    /// The back ends, in the order in which they are asked. A name belongs to the first one that knows it.
    pub backends: Vec<Backend>,
    /// The user that clients without credentials log in as.
    pub nameless_user: Name,
}

impl Default for People {
    fn default() -> People {
        People {
            users: BTreeMap::new(),
            permissions: BTreeMap::new(),
            topics: BTreeMap::new(),
            limits: BTreeMap::new(),
            globals: BTreeMap::new(),
            connections_max: None,
            file: FilePeople::default(),
            temporary: BTreeMap::new(),
            outside_bytes: 0,
            outside_bytes_max: usize::MAX,
            backends: vec![Backend::Internal],
            nameless_user: "".into(),
        }
    }
}

/// A source of users; see `auth.backends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The users that the log keeps.
    Internal,
    /// Mosquitto's files.
    File,
    /// Tokens.
    Jwt,
    /// An HTTP server.
    Http,
}

impl Backend {
    /// All back ends with their names in the configuration.
    pub(crate) const ALL: [(&'static str, Backend); 4] = [
        ("internal", Backend::Internal),
        ("file", Backend::File),
        ("jwt", Backend::Jwt),
        ("http", Backend::Http),
    ];
}

/// A user from a token or from the HTTP back end.
pub(crate) struct TemporaryUser {
    pub grant: Grant,
    pub quota: Arc<Quota>,
    /// Expiry in Unix seconds. A user of the HTTP back end stays longer while it has connections.
    pub until: u64,
    /// Where it comes from: [`Backend::Jwt`] or [`Backend::Http`].
    pub by: Backend,
    /// Estimated memory, counted in `auth.outside_memory`.
    pub bytes: usize,
}

/// Why a temporary user is not added.
#[derive(Debug)]
pub(super) enum NotAdded {
    /// `auth.outside_memory` is used up.
    OutOfMemory,
    /// The name belongs to another back end.
    Others,
}

/// A user of a back end that can list its users.
pub(super) struct Known<'a> {
    pub hash: &'a Arc<PasswordHash>,
    pub verifier: Option<&'a Arc<Verifier>>,
    pub quota: &'a Arc<Quota>,
    pub backend: Backend,
}

impl People {
    /// Reads the records of the log. Logs each damaged one: such a user cannot log in, such a permission is not granted.
    pub(super) fn recover(recovered: &Recovered) -> (People, u64) {
        let mut people = People::default();
        let mut damaged = Vec::new();
        let users = known::<UserRecord>(recovered);
        damaged.extend(users.damaged);
        for (name, record) in users.all {
            people.put_user(name, record);
        }
        let permissions = known::<PermissionRecord>(recovered);
        damaged.extend(permissions.damaged);
        people.permissions = permissions.all.into_iter().map(|((v, u), p)| ((u, v), p)).collect();
        let topics = known::<TopicPermissionRecord>(recovered);
        damaged.extend(topics.damaged);
        people.topics = topics.all.into_iter().map(|((v, u, x), p)| ((u, v, x), p)).collect();
        let limits = known::<LimitRecord>(recovered);
        damaged.extend(limits.damaged);
        people.limits = limits.all;
        let parameters = known::<ParameterRecord>(recovered);
        damaged.extend(parameters.damaged);
        let globals = parameters
            .all
            .into_iter()
            .filter(|((vhost, ..), _)| *vhost == VhostId::NODE);
        people.globals = globals
            .map(|((_, _, name), parameter)| (name, parameter.value))
            .collect();
        for key in &damaged {
            let what = gatepost_core::store::describe(key);
            tracing::error!(what, "damaged: it does not count");
        }
        let names: Vec<Name> = people.users.keys().cloned().collect();
        for name in names {
            people.apply_limits(&name);
        }
        (people, damaged.len() as u64)
    }

    /// The user of that name.
    pub(super) fn known(&self, name: &str) -> Option<Known<'_>> {
        self.backends.iter().find_map(|backend| match backend {
            Backend::Internal => self.users.get(name).map(|user| Known {
                hash: &user.hash,
                verifier: user.verifier.as_ref(),
                quota: &user.quota,
                backend: *backend,
            }),
            Backend::File => self.file.users.get(name).map(|user| Known {
                hash: &user.hash,
                verifier: None,
                quota: &user.quota,
                backend: *backend,
            }),
            // Such back ends cannot list their users: a token or the server names a user when it logs in.
            Backend::Jwt | Backend::Http => None,
        })
    }

    /// The quota of a user of any back end.
    pub(super) fn quota(&self, name: &str) -> Option<&Arc<Quota>> {
        let added = || self.temporary.get(name).map(|added| &added.quota);
        self.known(name).map(|known| known.quota).or_else(added)
    }

    /// Whether a user's messages may name another user as their sender: it has the tag `impersonator`, as in RabbitMQ.
    pub(super) fn impersonates(&self, name: &str) -> bool {
        let tags = self.tags(name).unwrap_or_default();
        tags.iter().any(|tag| **tag == *"impersonator")
    }

    /// A user's tags. `None`: there is no such user.
    pub(super) fn tags(&self, name: &str) -> Option<Vec<Name>> {
        match self.known(name).map(|known| known.backend) {
            Some(Backend::Internal) => self.users.get(name).map(|user| user.record.tags.clone()),
            // Mosquitto's files have no tags.
            Some(Backend::File) => Some(Vec::new()),
            Some(Backend::Jwt | Backend::Http) | None => self.temporary.get(name).map(|added| added.grant.tags.clone()),
        }
    }

    /// Whether a user has any rights in a vhost. Must agree with `instruct_about`.
    pub(super) fn may_enter(&self, user: &Name, vhost: VhostId, name: &str) -> bool {
        // Mosquitto's files do not mention vhosts; they apply to the default one.
        let in_default = name == DEFAULT_VHOST;
        match self.known(user).map(|known| known.backend) {
            Some(Backend::Internal)
                if self.asks_file() && self.file.nameless.is_some() && *user == self.nameless_user =>
            {
                in_default
            }
            Some(Backend::Internal) => self.permissions.contains_key(&(user.clone(), vhost)),
            Some(Backend::File) => in_default,
            Some(Backend::Jwt | Backend::Http) => false,
            None => {
                let added = self.temporary.get(user);
                added.is_some_and(|added| added.grant.rights(name).is_some())
            }
        }
    }

    /// Adds a user of a token or of the HTTP back end, or replaces its earlier token. Its open connections stay counted.
    ///
    /// # Errors
    /// There is no memory for it, or the name belongs to another back end. Then an earlier token stays valid until it expires.
    pub(super) fn add_temporary(&mut self, name: Name, added: TemporaryUser) -> Result<(), NotAdded> {
        if self.known(&name).is_some() {
            return Err(NotAdded::Others);
        }
        let before = self.temporary.get(&name);
        if before.is_some_and(|before| before.by != added.by && before.quota.connections() > 0) {
            return Err(NotAdded::Others);
        }
        let others = self.outside_bytes - before.map_or(0, |before| before.bytes);
        if others + added.bytes > self.outside_bytes_max {
            return Err(NotAdded::OutOfMemory);
        }
        let quota = before.map(|before| Arc::clone(&before.quota)).unwrap_or_default();
        quota.set_limits(self.connections_max, None);
        self.outside_bytes = others + added.bytes;
        self.temporary.insert(name, TemporaryUser { quota, ..added });
        Ok(())
    }

    /// Removes and returns the users whose tokens have expired, and users of the HTTP back end who have disconnected.
    pub(super) fn remove_expired(&mut self, now: u64) -> Vec<Name> {
        let asks_server = self.backends.contains(&Backend::Http);
        let gone = self.temporary.extract_if(.., |_, added| match added.by {
            Backend::Http if asks_server => added.until <= now && added.quota.connections() == 0,
            Backend::Http => true,
            _ => added.until <= now,
        });
        let gone: Vec<(Name, usize)> = gone.map(|(name, added)| (name, added.bytes)).collect();
        self.outside_bytes -= gone.iter().map(|(_, bytes)| bytes).sum::<usize>();
        gone.into_iter().map(|(name, _)| name).collect()
    }

    /// Whether `file` is among `auth.backends`.
    pub(super) fn asks_file(&self) -> bool {
        self.backends.contains(&Backend::File)
    }

    /// Adds a user, or changes it.
    pub(super) fn put_user(&mut self, name: Name, record: UserRecord) {
        let hash = PasswordHash::of(&record).unwrap_or_else(|why| {
            tracing::error!(user = %name, why, "the user's password hash cannot be read: it cannot log in by password");
            PasswordHash::Nothing
        });
        let verifier = kept::verifier(&record);
        let before = self.users.get(&name);
        // The same objects if nothing changed: open console sessions and logins in progress compare the pointers.
        let same_hash = before.map(|user| &user.hash).filter(|before| ***before == hash);
        let same_verifier = before.and_then(|user| user.verifier.as_ref());
        let same_verifier = same_verifier.filter(|before| Some(&***before) == verifier.as_ref());
        let user = User {
            hash: same_hash.cloned().unwrap_or_else(|| Arc::new(hash)),
            verifier: same_verifier.cloned().or_else(|| verifier.map(Arc::new)),
            quota: before.map(|user| Arc::clone(&user.quota)).unwrap_or_default(),
            record,
        };
        self.users.insert(name.clone(), user);
        self.apply_limits(&name);
    }

    /// Removes a user with its permissions and limits.
    pub(super) fn remove_user(&mut self, name: &Name) {
        self.users.remove(name);
        self.permissions.retain(|(user, _), _| user != name);
        self.topics.retain(|(user, ..), _| user != name);
        self.limits.remove(&LimitOf::User(name.clone()));
    }

    /// Removes a vhost's permissions and limits.
    pub(super) fn remove_vhost(&mut self, vhost: VhostId) {
        self.permissions.retain(|(_, v), _| *v != vhost);
        self.topics.retain(|(_, v, _), _| *v != vhost);
        self.limits.remove(&LimitOf::Vhost(vhost));
    }

    /// The rights of a user of the log in a vhost. `None`: it may not use the vhost.
    pub(super) fn rights(&self, user: &Name, vhost: VhostId) -> Option<Rights> {
        let key = (user.clone(), vhost);
        let mut rights = self
            .permissions
            .get(&key)
            .and_then(|permission| compile(permission).ok())?;
        let first = (user.clone(), vhost, Name::from(""));
        let topics = self
            .topics
            .range(first..)
            .take_while(|((u, v, _), _)| u == user && *v == vhost);
        for ((.., exchange), topic) in topics {
            // An unreadable list grants nothing.
            let write = grants::parse(&topic.write).unwrap_or_default();
            let read = grants::parse(&topic.read).unwrap_or_default();
            rights = rights.with_topics(exchange, write.granted, read.granted);
            rights = rights.without_topics(exchange, write.denied, read.denied, false);
        }
        Some(rights)
    }

    /// The limit of that name. A negative value means none.
    fn limit(&self, of: &LimitOf, name: &str) -> Option<u32> {
        let record = self.limits.get(of)?;
        let (_, value) = record.limits.iter().find(|(limit, _)| **limit == *name)?;
        u32::try_from(*value).ok()
    }

    /// Sets the limits in a user's quota.
    pub(super) fn apply_limits(&self, name: &Name) {
        let Some(user) = self.users.get(name) else { return };
        let of = LimitOf::User(name.clone());
        let connections = match self.limits.get(&of) {
            Some(record) if record.limits.iter().any(|(limit, _)| **limit == *MAX_CONNECTIONS) => {
                self.limit(&of, MAX_CONNECTIONS)
            }
            _ => self.connections_max,
        };
        user.quota.set_limits(connections, self.limit(&of, MAX_CHANNELS));
    }

    /// The limits of a vhost.
    pub(super) fn vhost_limits(&self, vhost: VhostId) -> VhostLimits {
        let limit = |name| self.limit(&LimitOf::Vhost(vhost), name).map(|max| max as usize);
        VhostLimits {
            connections_max: limit(MAX_CONNECTIONS),
            queues_max: limit(MAX_QUEUES),
        }
    }
}

/// The limit on connections, of a user or a vhost.
pub(super) const MAX_CONNECTIONS: &str = "max-connections";
/// The limit on a user's channels.
pub(super) const MAX_CHANNELS: &str = "max-channels";
/// The limit on a vhost's queues.
pub(super) const MAX_QUEUES: &str = "max-queues";

/// Compiles a permission's patterns.
///
/// # Errors
/// One is not a regular expression.
pub(super) fn compile(permission: &PermissionRecord) -> Result<Rights, DirectoryError> {
    let parse = |text: &str| NamePattern::parse(text).map_err(|error| DirectoryError::Pattern(error.to_string()));
    Ok(Rights::new(
        parse(&permission.configure)?,
        parse(&permission.write)?,
        parse(&permission.read)?,
    ))
}
