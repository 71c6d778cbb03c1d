//! The node's directory: the users, who may log in, and what they may do.
//!
//! ```text
//!   the log ──recover──► people ──rights, limits──► every vhost's engine, which never asks back
//!      ▲                   │
//!      └──record── verbs   └──hash──► login ──► hashing threads ──► answer, by a wake
//! ```
//!
//! - [`people`]: users, permissions and limits in memory.
//! - [`users`], [`permissions`], [`limits`]: the verbs that change them.
//! - [`rules`]: who may log in from where, without a name, or by certificate.
//! - [`password`], [`hashing`]: hashes, and the threads that compute them.
//! - [`grants`]: the text form of topic permissions.
//! - [`kept`], [`scram`], [`mechanisms`]: the stored form of a password, and logins in several rounds.
//! - [`jwt`], [`jwks`], [`temporary`]: tokens, the keys that verify them, and users who exist only while their token is
//!   valid.
//! - [`outside`], [`question`]: an HTTP server that authenticates users, and the requests it gets.
//! - [`mod@file`]: Mosquitto's password and ACL files. A name belongs to the first of `auth.backends` that knows it.
//!
//! # Verbs
//!
//! All are methods of the [`Node`](crate::node::Node), for the control socket and the management interface. Those that
//! change something are `async`: they return when the change is synced to the log and every engine knows of it. One
//! change is made at a time. The caller checks who may call them. A refusal is a [`DirectoryError`], whose text is for
//! people.
//!
//! | verb | what it does |
//! |---|---|
//! | `add_user(name, credential, tags)` | creates a user; fails if there is one of that name |
//! | `put_user(name, credential, tags)` | creates a user or replaces it: [`Put::Created`] or [`Put::Changed`] |
//! | `change_password(name, credential)` | for later logins; open connections stay |
//! | `set_user_tags(name, tags)` | such as `administrator` |
//! | `delete_user(name)` | with its permissions and limits; its connections end |
//! | `users()`, `user(name)` | lists them |
//! | `log_in(name, password, local)` | checks a password or token, for the management interface |
//! | `vhosts_of(user)` | the vhosts that a user may use |
//! | `set_permission(user, vhost, permission)` | regular expressions for configure, write, read |
//! | `clear_permission(user, vhost)` | the user may not use the vhost any more; its connections stay open, their commands are refused |
//! | `permissions()` | lists them |
//! | `set_topic_permission(user, vhost, exchange, write, read)` | patterns, see [`grants`] |
//! | `clear_topic_permission(user, vhost, exchange)` | of one exchange, or (`None`) of all |
//! | `topic_permissions()` | lists them |
//! | `set_user_limit(user, name, value)`, `clear_user_limit` | `max-connections`, `max-channels` |
//! | `set_vhost_limit(vhost, name, value)`, `clear_vhost_limit` | `max-connections`, `max-queues` |
//! | `user_limits()`, `vhost_limits()` | lists them |
//! | `create_vhost`, `delete_vhost`, `list_vhosts` | see [`crate::vhosts`] |
//!
//! # First start
//!
//! When the log has no vhost and no user, two users are created with all permissions in the vhost `/`: the default user
//! (`auth.default_user`, an administrator), and the user for anonymous clients (`mqtt.anonymous_user`, without a password).
//! Later starts create no user, so a deleted default user stays deleted.

pub(crate) mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub(crate) mod grants;
pub(crate) mod hashing;
pub(crate) mod jwks;
pub(crate) mod jwt;
pub(crate) mod kept;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod mechanisms;
pub(crate) mod outside;
pub(crate) mod parameters;
pub(crate) mod password;
pub(crate) mod people;
pub(crate) mod permissions;
pub(crate) mod question;
pub(crate) mod rules;
pub(crate) mod scram;
pub(crate) mod temporary;
pub(crate) mod users;

#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::node::DEFAULT_VHOST;
use crate::outbound;
use crate::secret::Secret;
use crate::vhost::Vhost;
use crate::vhosts::LogClosed;
use file::FilePeople;
use gatepost_core::catalog::directory::{
    LimitOf, LimitRecord, PermissionRecord, TopicPermissionRecord, UserRecord, deletion, record,
};
use gatepost_core::command::{Login, Peer};
use gatepost_core::engine::Engine;
use gatepost_core::event::{CloseReason, Event, LoginFailure, LoginRefused};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::{Name, Table};
use gatepost_core::quota::Seat;
use gatepost_core::store::{Record, Recovered, VhostId};
use hashing::{Answer, Check, Hashing};
use jwt::Issuer;
use kept::Kept;
use outside::{Credentials, Errands, Server};
use parking_lot::{Mutex, RwLock};
use password::{PASSWORD_BYTES_MAX, PasswordHash, Workspace};
use people::{Backend, People};
use rules::{Decision, Rules};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use temporary::Granted;
use tokio::sync::mpsc;

/// Why a verb was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// There is a user of that name.
    #[error("user '{0}' exists")]
    UserExists(Name),
    /// There is no user of that name.
    #[error("no such user: '{0}'")]
    NoSuchUser(Name),
    /// There is no vhost of that name.
    #[error("no such vhost: '{0}'")]
    NoSuchVhost(Name),
    /// There is nothing to clear.
    #[error("there is no such {0}")]
    NotSet(&'static str),
    /// No user can have that name.
    #[error("a user's name has 1 to {NAME_MAX} bytes and no control characters")]
    Name,
    /// No user can have that password.
    #[error("a password has 1 to {PASSWORD_BYTES_MAX} bytes")]
    Password,
    /// The hash cannot be imported.
    #[error("{0}")]
    Hash(String),
    /// Not a valid pattern.
    #[error("{0}")]
    Pattern(String),
    /// Not a valid parameter.
    #[error("{0}")]
    Parameter(String),
    /// There is no limit of that name.
    #[error("{0}")]
    Limit(String),
    /// The log no longer accepts records: the node is stopping.
    #[error("the log is closed")]
    LogClosed,
}

impl From<LogClosed> for DirectoryError {
    fn from(_: LogClosed) -> DirectoryError {
        DirectoryError::LogClosed
    }
}

/// Whether a verb created something or changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It did not exist before.
    Created,
    /// It existed before.
    Changed,
}

/// Maximum bytes of a user's name.
const NAME_MAX: usize = 255;

/// The users, and how they log in.
pub(crate) struct Directory {
    /// From the configuration; a reload replaces them as a whole. A login keeps its `Arc`, so it never mixes old and new rules.
    rules: RwLock<Arc<Rules>>,
    /// From the log, from files and from tokens. Lock order: directory, engine, log.
    people: RwLock<People>,
    /// Held while something changes: one change at a time.
    changing: tokio::sync::Mutex<()>,
    hashing: Hashing,
    data_dir: PathBuf,
    /// The secret that SCRAM salts of unknown users are derived from; read from disk at the first such login.
    decoys: OnceLock<Secret>,
    /// Name and password of the default user, until the first start has created it.
    first: Mutex<Option<(Name, String)>>,
    /// Users who just logged in by password, and whose hash is obsolete or who lack a SCRAM verifier.
    obsolete: mpsc::Sender<Obsolete>,
    obsolete_seen: Mutex<Option<mpsc::Receiver<Obsolete>>>,
    /// Connections that a user's limit refused.
    connections_refused: AtomicU64,
    /// Verifies tokens; `None`: `jwt` is not among `auth.backends`.
    issuer: RwLock<Option<Arc<Issuer>>>,
    /// Wakes the task that fetches keys after `issuer` was replaced.
    issuer_changed: tokio::sync::Notify,
    /// Tokens whose key is not known: they wait until the keys are fetched.
    unknown: mpsc::Sender<jwks::Waiting>,
    unknown_seen: Mutex<Option<mpsc::Receiver<jwks::Waiting>>>,
    /// Requests for the issuer's keys.
    pub(crate) key_requests: outbound::Counts,
    /// The HTTP server that is asked about users no other back end knows.
    server: RwLock<Option<Arc<Server>>>,
    /// Requests that wait to be sent to it.
    pub(crate) errands: Errands,
    granted: mpsc::UnboundedSender<Granted>,
    granted_seen: Mutex<Option<mpsc::UnboundedReceiver<Granted>>>,
}

/// A hash to replace, or to add a SCRAM verifier to.
pub(crate) struct Obsolete {
    pub user: Name,
    pub hash: Arc<PasswordHash>,
    pub password: Box<[u8]>,
}

/// Maximum hashes that wait to be replaced. Any beyond that is replaced at the user's next login.
const OBSOLETE_MAX: usize = 64;

/// Where a login comes from.
pub(crate) struct Caller<'a> {
    /// Its protocol's name.
    pub protocol: &'a str,
    /// Its address, and what its certificate proved.
    pub peer: &'a Peer,
    /// The listener's own rule about clients without credentials; `None`: `mqtt.anonymous` applies.
    pub anonymous: Option<crate::config::Anonymous>,
}

impl Directory {
    /// A directory with the configuration's rules and files, and no users from the log yet.
    ///
    /// # Errors
    /// A file that the configuration names cannot be read or used: the default user's password, Mosquitto's files, a JWKS,
    /// certificates. The text names it.
    pub(crate) fn new(config: &Config) -> Result<Directory, String> {
        let auth = &config.auth;
        let first = match (auth.default_user.as_str(), auth.default_password_file.as_str()) {
            ("", _) => None,
            (user, "") => Some((Name::from(user), user.to_owned())),
            (user, path) => {
                let password = rules::password_of(path).map_err(|what| format!("{}: {what}", rules::PASSWORD_FILE))?;
                Some((Name::from(user), password))
            }
        };
        let people = People {
            file: load_files(config).map_err(|problems| problems.join("\n"))?,
            backends: rules::backends(config),
            nameless_user: config.mqtt.anonymous_user.as_str().into(),
            outside_bytes_max: config.auth.outside_memory.bytes(),
            ..People::default()
        };
        let (obsolete, obsolete_seen) = mpsc::channel(OBSOLETE_MAX);
        // The channel is unbounded, but its content is bounded: each entry is a login that waited for a hashing thread,
        // and those are limited.
        let (granted, granted_seen) = mpsc::unbounded_channel();
        let (unknown, unknown_seen) = mpsc::channel(jwks::WAITING_MAX);
        Ok(Directory {
            rules: RwLock::new(Arc::new(Rules::new(config))),
            people: RwLock::new(people),
            changing: tokio::sync::Mutex::new(()),
            hashing: Hashing::new(rules::hashing(config)),
            data_dir: config.node.data_dir.clone(),
            decoys: OnceLock::new(),
            first: Mutex::new(first),
            obsolete,
            obsolete_seen: Mutex::new(Some(obsolete_seen)),
            connections_refused: AtomicU64::new(0),
            issuer: RwLock::new(load_issuer(config)?.map(Arc::new)),
            issuer_changed: tokio::sync::Notify::new(),
            unknown,
            unknown_seen: Mutex::new(Some(unknown_seen)),
            key_requests: outbound::Counts::default(),
            server: RwLock::new(Server::load(config)?.map(Arc::new)),
            errands: Errands::new(),
            granted,
            granted_seen: Mutex::new(Some(granted_seen)),
        })
    }

    /// Prevents [`Directory::begin`] from creating the default user, because imported definitions create users.
    pub(crate) fn make_no_default_user(&self) {
        *self.first.lock() = None;
    }

    /// Takes over users and permissions from the log. Returns how many records are damaged.
    pub(crate) fn recover(&self, recovered: &Recovered, config: &Config) -> u64 {
        let (mut people, damaged) = People::recover(recovered);
        let mut current = self.people.write();
        people.file = std::mem::take(&mut current.file);
        people.backends = std::mem::take(&mut current.backends);
        people.nameless_user = current.nameless_user.clone();
        people.outside_bytes_max = current.outside_bytes_max;
        people.connections_max = rules::connections_max(config);
        people.users.keys().for_each(|name| people.apply_limits(name));
        *current = people;
        damaged
    }

    /// Creates the users of the first start, with permissions in this vhost. Returns the records to write to the log.
    pub(crate) fn begin(&self, vhost: VhostId) -> Vec<Record> {
        let mut people = self.people.write();
        if !people.users.is_empty() {
            return Vec::new();
        }
        let rules = self.rules.read().clone();
        let mut users = Vec::new();
        if let Some((name, password)) = self.first.lock().take() {
            let (cost, iterations) = self.hashing.new_passwords();
            let kept = Kept::make(password.as_bytes(), cost, iterations, &mut Workspace::default());
            users.push((name, kept, vec!["administrator".into()]));
        }
        if !rules.anonymous_user.is_empty() && users.iter().all(|(name, ..)| *name != rules.anonymous_user) {
            users.push((rules.anonymous_user.clone(), PasswordHash::Nothing.into(), Vec::new()));
        }
        let mut records = Vec::new();
        for (name, kept, tags) in users {
            let mut user = UserRecord {
                tags,
                ..UserRecord::default()
            };
            kept.write(&mut user);
            let permission = PermissionRecord {
                configure: ".*".into(),
                write: ".*".into(),
                read: ".*".into(),
                more: Table::default(),
            };
            records.push(record(&name, &user));
            records.push(record(&(vhost, name.clone()), &permission));
            people.put_user(name.clone(), user);
            people.permissions.insert((name, vhost), permission);
        }
        records
    }

    /// Applies a new configuration: later logins follow its rules, and the engines get the new rights. Users who are no longer
    /// in Mosquitto's files lose their connections.
    pub(crate) fn replace(&self, config: &Config, backends: Backends, vhosts: &[Arc<Vhost>]) {
        let Backends {
            mut file,
            issuer,
            server,
        } = backends;
        self.replace_server(server);
        self.replace_issuer(issuer);
        *self.rules.write() = Arc::new(Rules::new(config));
        self.hashing.configure(rules::hashing(config));
        let gone: Vec<Name> = {
            let mut people = self.people.write();
            let before = people.names_of_files();
            for (name, user) in &people.file.users {
                if let Some(next) = file.users.get_mut(name) {
                    next.quota = Arc::clone(&user.quota);
                }
            }
            people.file = file;
            people.backends = rules::backends(config);
            people.nameless_user = config.mqtt.anonymous_user.as_str().into();
            people.outside_bytes_max = config.auth.outside_memory.bytes();
            people.connections_max = rules::connections_max(config);
            people.users.keys().for_each(|name| people.apply_limits(name));
            before.into_iter().filter(|name| people.known(name).is_none()).collect()
        };
        for vhost in vhosts {
            self.push(vhost);
            vhost.enter(|engine| {
                for user in &gone {
                    engine.remove_rights(user);
                    engine.end_user(user, CloseReason::UserDeleted);
                }
            });
        }
    }

    /// Sets all users' rights in an engine that is not shared yet.
    pub(crate) fn instruct(&self, vhost: VhostId, engine: &mut Engine) {
        self.people.read().instruct(vhost, engine);
    }

    /// Sets all users' rights in a vhost's engine.
    pub(crate) fn push(&self, vhost: &Vhost) {
        let people = self.people.read();
        vhost.enter(|engine| people.instruct(vhost.number, engine));
    }

    /// Records that delete a vhost's permissions and limits. Vhost numbers are never reused, so a permission that is
    /// written meanwhile and left over grants nothing.
    pub(crate) fn about_vhost(&self, vhost: VhostId) -> Vec<Record> {
        let people = self.people.read();
        let mut records = Vec::new();
        for (user, _) in people.permissions.keys().filter(|(_, v)| *v == vhost) {
            records.push(deletion::<PermissionRecord>(&(vhost, user.clone())));
        }
        for (user, _, exchange) in people.topics.keys().filter(|(_, v, _)| *v == vhost) {
            records.push(deletion::<TopicPermissionRecord>(&(
                vhost,
                user.clone(),
                exchange.clone(),
            )));
        }
        if people.limits.contains_key(&LimitOf::Vhost(vhost)) {
            records.push(deletion::<LimitRecord>(&LimitOf::Vhost(vhost)));
        }
        records
    }

    /// Removes a vhost's permissions and limits from memory.
    pub(crate) fn forget_vhost(&self, vhost: VhostId) {
        self.people.write().remove_vhost(vhost);
    }

    /// Sets one user's rights in these engines.
    fn push_user(&self, vhosts: &[Arc<Vhost>], user: &Name) {
        let people = self.people.read();
        for vhost in vhosts {
            vhost.enter(|engine| people.instruct_about(user, vhost.number, engine));
        }
    }

    /// Counts of password checks.
    pub(crate) fn figures(&self) -> &hashing::Figures {
        self.hashing.figures()
    }

    /// Memory of what checks passwords.
    pub(crate) fn hashing_bytes(&self) -> u64 {
        self.hashing.bytes()
    }

    /// Connections that a user's limit refused.
    pub(crate) fn connections_refused(&self) -> u64 {
        self.connections_refused.load(Ordering::Relaxed)
    }

    /// The issuer whose tokens are accepted, if there is one.
    pub(crate) fn issuer(&self) -> Option<Arc<Issuer>> {
        self.issuer.read().clone()
    }

    /// Replaces the issuer. If the JWKS URL is the same, the fetched keys stay valid until the next fetch.
    fn replace_issuer(&self, issuer: Option<Issuer>) {
        let mut current = self.issuer.write();
        if let (Some(old), Some(new)) = (&*current, &issuer)
            && let (Some(from), Some(to)) = (&old.source, &new.source)
            && from.is_like(to)
        {
            new.set_keys(old.keys());
        }
        *current = issuer.map(Arc::new);
        drop(current);
        self.issuer_changed.notify_one();
    }

    /// Verifies a token on a hashing thread. If its key is not known, it waits in `unknown` until the keys are fetched.
    fn check_token(
        &self,
        issuer: Arc<Issuer>,
        user: Name,
        token: Box<[u8]>,
        to: &Arc<dyn Answer>,
        unknown: Option<mpsc::Sender<jwks::Waiting>>,
    ) -> Option<Event> {
        if token.len() > jwt::TOKEN_BYTES_MAX {
            return Some(temporary::refused(user));
        }
        let (granted, bytes, waits) = (self.granted.clone(), token.len(), Arc::downgrade(to));
        let name = user.clone();
        let unknown = unknown.filter(|_| issuer.source.is_some());
        let verify = Box::new(move || match (issuer.verify(&token, temporary::now()), unknown) {
            (Ok(token), _) => granted
                .send(Granted { token, to: waits })
                .err()
                .map(|_| temporary::refused(name)),
            (Err(jwt::UNKNOWN_KEY), Some(unknown)) => {
                let waiting = jwks::Waiting {
                    user: name,
                    token,
                    to: waits,
                };
                let full = unknown.try_send(waiting).err();
                full.map(|error| temporary::refused(error.into_inner().user))
            }
            (Err(why), _) => {
                tracing::debug!(%name, why, "a token was refused");
                Some(temporary::refused(name))
            }
        });
        let busy = self.hashing.work(bytes, Arc::downgrade(to), verify).err();
        busy.map(|hashing::Busy| {
            let why = LoginFailure::Busy;
            Event::LoginRefused(Box::new(LoginRefused { user, why }))
        })
    }

    /// The tokens whose key is not known. Returns the receiver once, then `None`.
    pub(crate) fn unknown(&self) -> Option<mpsc::Receiver<jwks::Waiting>> {
        self.unknown_seen.lock().take()
    }

    /// Memory and number of users from tokens and from the HTTP server.
    pub(crate) fn outside(&self) -> (usize, usize) {
        let people = self.people.read();
        (people.outside_bytes, people.temporary.len())
    }

    /// The verified tokens. Returns the receiver once, then `None`.
    pub(crate) fn granted(&self) -> Option<mpsc::UnboundedReceiver<Granted>> {
        self.granted_seen.lock().take()
    }

    /// The hashes to replace. Returns the receiver once, then `None`.
    pub(crate) fn obsolete(&self) -> Option<mpsc::Receiver<Obsolete>> {
        self.obsolete_seen.lock().take()
    }

    /// Counts a connection for its user, until the seat is dropped.
    ///
    /// # Errors
    /// QuotaExceeded: the user has as many connections as it may have. AccessRefused: it was deleted since it logged
    /// in.
    pub(crate) fn enter(&self, user: &Name) -> Result<Seat, Fault> {
        let quota = self.people.read().quota(user).cloned();
        let Some(quota) = quota else {
            return Err(Fault::new(
                FaultKind::AccessRefused,
                format!("user '{user}' is deleted"),
            ));
        };
        quota.connect().map_err(|max| {
            self.connections_refused.fetch_add(1, Ordering::Relaxed);
            let text = format!("Connection refused for user '{user}': user connection limit ({max}) is reached");
            Fault::new(FaultKind::QuotaExceeded, text)
        })
    }

    /// Decides a login at once, or returns `None` and sends the answer to `to` later.
    pub(crate) fn authenticate(&self, from: &Caller<'_>, login: Login, to: &Arc<dyn Answer>) -> Option<Event> {
        let rules = Arc::clone(&self.rules.read());
        let people = self.people.read();
        let (user, password, said) = match rules.decide(from, login, &people) {
            Decision::Yes(user) => {
                let is_known = people.known(&user).is_some();
                drop(people);
                return match self.server().filter(|_| !is_known) {
                    Some(server) => self.ask_login(server, from, user, Credentials::default(), to),
                    None => Some(Event::authenticated(user)),
                };
            }
            Decision::No(refused) => return Some(Event::LoginRefused(Box::new(refused))),
            Decision::Check { user, password, said } => (user, password, said),
        };
        let known = people.known(&user);
        let lacks_verifier = known.as_ref().is_some_and(|known| rules.lacks_verifier(known));
        let known = known.map(|known| Arc::clone(known.hash));
        drop(people);
        if known.is_none()
            && jwt::is_token(&password)
            && let Some(issuer) = self.issuer()
        {
            return self.check_token(issuer, user, password, to, Some(self.unknown.clone()));
        }
        if known.is_none()
            && let Some(server) = self.server()
        {
            let credentials = Credentials {
                password: Some(password),
                said,
            };
            return self.ask_login(server, from, user, credentials, to);
        }
        let known = known.filter(|hash| **hash != PasswordHash::Nothing);
        let is_known = known.is_some();
        let hash = known.unwrap_or_else(|| Arc::clone(&rules.decoy));
        let decide = {
            let (user, is_local) = (user.clone(), from.peer.is_local);
            move |is_right: bool| match rules.verdict(&user, is_right, is_local) {
                Ok(()) => Event::authenticated(user),
                Err(why) => Event::LoginRefused(Box::new(LoginRefused { user, why })),
            }
        };
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            // No user has such a password, so answering fast does not tell whether the user exists.
            return Some(decide(false));
        }
        if is_known && self.hashing.remembers(&user, &password, &hash) {
            return Some(decide(true));
        }
        let renew = (is_known && (hash.is_obsolete() || lacks_verifier)).then(|| Obsolete {
            user: user.clone(),
            hash: Arc::clone(&hash),
            password: password.clone(),
        });
        let obsolete = self.obsolete.clone();
        let check = Check {
            user: user.clone(),
            password,
            hash,
            to: Arc::downgrade(to),
            then: Box::new(move |is_right| {
                if let Some(renew) = renew.filter(|_| is_right) {
                    // If the channel is full, the user's next login tries again.
                    let _ = obsolete.try_send(renew);
                }
                decide(is_right && is_known)
            }),
        };
        self.hashing.check(check).err().map(|_| {
            let why = LoginFailure::Busy;
            Event::LoginRefused(Box::new(LoginRefused { user, why }))
        })
    }
}

/// The configured back ends, read and ready to replace the current ones.
pub(crate) struct Backends {
    file: FilePeople,
    issuer: Option<Issuer>,
    server: Option<Server>,
}

/// Reads the files of the configured back ends.
///
/// # Errors
/// Everything that is wrong in the files.
pub(crate) fn load(config: &Config) -> Result<Backends, Vec<String>> {
    Ok(Backends {
        file: load_files(config)?,
        issuer: load_issuer(config).map_err(|problem| vec![problem])?,
        server: Server::load(config).map_err(|problem| vec![problem])?,
    })
}

fn load_issuer(config: &Config) -> Result<Option<Issuer>, String> {
    let is_asked = rules::backends(config).contains(&Backend::Jwt);
    is_asked.then(|| Issuer::load(config)).transpose()
}

fn load_files(config: &Config) -> Result<FilePeople, Vec<String>> {
    if rules::backends(config).contains(&Backend::File) {
        FilePeople::load(config)
    } else {
        Ok(FilePeople::default())
    }
}

impl People {
    fn instruct(&self, vhost: VhostId, engine: &mut Engine) {
        engine.set_vhost_limits(self.vhost_limits(vhost));
        for (user, _) in self.permissions.keys().filter(|(_, v)| *v == vhost) {
            self.instruct_about(user, vhost, engine);
        }
        let come_and_go = |backend: &Backend| matches!(backend, Backend::Jwt | Backend::Http);
        engine.set_users_come_and_go(self.backends.iter().any(come_and_go));
        for user in self.names_of_files().iter().chain(self.temporary.keys()) {
            self.instruct_about(user, vhost, engine);
        }
    }

    /// Users whose rights come from Mosquitto's files, including the user for anonymous clients.
    fn names_of_files(&self) -> Vec<Name> {
        if !self.asks_file() {
            return Vec::new();
        }
        let nameless = self.file.nameless.iter().map(|_| self.nameless_user.clone());
        self.file.users.keys().cloned().chain(nameless).collect()
    }

    fn instruct_about(&self, user: &Name, vhost: VhostId, engine: &mut Engine) {
        // Mosquitto's files do not mention vhosts; they apply to the default one.
        let in_default = **engine.vhost() == *DEFAULT_VHOST;
        let known = self.known(user);
        let rights = known
            .as_ref()
            .and_then(|known| match (known.backend, &self.file.nameless) {
                (Backend::Internal, Some(nameless)) if self.asks_file() && *user == self.nameless_user => {
                    in_default.then(|| Arc::clone(nameless))
                }
                (Backend::Internal, _) => self.rights(user, vhost).map(Arc::new),
                (Backend::Jwt | Backend::Http, _) => None,
                (Backend::File, _) => self
                    .file
                    .users
                    .get(user)
                    .filter(|_| in_default)
                    .map(|user| Arc::clone(&user.rights)),
            });
        let added = self.temporary.get(user).filter(|_| known.is_none());
        let added = added.and_then(|added| Some((&added.quota, added.grant.rights(engine.vhost())?)));
        match known.map(|known| known.quota).zip(rights).or(added) {
            Some((quota, rights)) => {
                engine.set_quota(user.clone(), Arc::clone(quota));
                engine.set_rights(user.clone(), rights);
            }
            None => engine.remove_rights(user),
        }
    }
}
