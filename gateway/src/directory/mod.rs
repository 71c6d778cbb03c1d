//! The node's directory: who there is, who may log in, and what they may do.
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
//! - [`grants`]: how topic permissions are written.
//! - [`kept`], [`scram`], [`mechanisms`]: what is kept of a password, and logins in rounds.
//! - [`jwt`], [`jwks`], [`lent`]: tokens, the keys that they are verified with, and the users that they bring for a while.
//! - [`outside`], [`question`]: a server that knows users, and what it is asked.
//! - [`file`]: Mosquitto's password and ACL files. A name belongs to the first of `auth.backends` that knows it.
//!
//! # Verbs
//!
//! All are methods of the [`Node`](crate::node::Node), for the control socket and the management interface. Those that
//! change something are `async`: they return once a power cut cannot undo the change, and every engine knows of it. One
//! change is made at a time. The caller decides who may call them; what is refused is a [`DirectoryError`], whose text is
//! for people.
//!
//! | verb | what it does |
//! |---|---|
//! | `add_user(name, credential, tags)` | makes a user; fails if there is one of that name |
//! | `put_user(name, credential, tags)` | makes a user or replaces it: [`Put::Created`] or [`Put::Changed`] |
//! | `change_password(name, credential)` | for later logins; open connections stay |
//! | `set_user_tags(name, tags)` | such as `administrator` |
//! | `delete_user(name)` | with its permissions and limits; its connections end |
//! | `users()`, `user(name)` | lists them |
//! | `log_in(name, password, local)` | checks a password or token, for interfaces that are no protocol |
//! | `vhosts_of(user)` | the vhosts that a user may use |
//! | `set_permission(user, vhost, permission)` | regular expressions for configure, write, read |
//! | `clear_permission(user, vhost)` | the user may not use the vhost any more; its connections stay and are refused |
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
//! Where there was never a vhost nor a user, the default user (`auth.default_user`, an administrator) and the user that
//! anonymous clients become (`mqtt.anonymous_user`, without a password) are made, with all permissions in the vhost `/`.
//! Later starts make nobody: whoever is deleted stays away.

pub(crate) mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub(crate) mod grants;
pub(crate) mod hashing;
pub(crate) mod jwks;
pub(crate) mod jwt;
pub(crate) mod kept;
pub(crate) mod lent;
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
use lent::Granted;
use outside::{Credentials, Errands, Server};
use parking_lot::{Mutex, RwLock};
use password::{PASSWORD_BYTES_MAX, PasswordHash, Workspace};
use people::{Backend, People};
use rules::{Decision, Rules};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
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
    /// A hash that cannot be taken over.
    #[error("{0}")]
    Hash(String),
    /// A pattern that is none.
    #[error("{0}")]
    Pattern(String),
    /// A parameter that is none.
    #[error("{0}")]
    Parameter(String),
    /// A limit that is none.
    #[error("{0}")]
    Limit(String),
    /// The log did not take it: the node is stopping.
    #[error("the log is closed")]
    LogClosed,
}

impl From<LogClosed> for DirectoryError {
    fn from(_: LogClosed) -> DirectoryError {
        DirectoryError::LogClosed
    }
}

/// What a verb that makes or changes something did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It was not there.
    Created,
    /// It was.
    Changed,
}

/// Bytes of a user's name, at most.
const NAME_MAX: usize = 255;

/// See the module.
pub(crate) struct Directory {
    /// From the configuration: replaced as a whole by a reload. A login reads one of them from beginning to end.
    rules: RwLock<Arc<Rules>>,
    /// From the log. The order of locks is directory, engine, log.
    people: RwLock<People>,
    /// Held while something changes: one change at a time.
    changing: tokio::sync::Mutex<()>,
    hashing: Hashing,
    data_dir: PathBuf,
    /// Behind what strangers are asked: read when the first one comes.
    decoys: OnceLock<Secret>,
    /// Who is made at the first start, and the password.
    first: Mutex<Option<(Name, String)>>,
    /// Users whose hash should be made anew, or who lack a verifier, now that the password is known.
    obsolete: mpsc::Sender<Obsolete>,
    obsolete_seen: Mutex<Option<mpsc::Receiver<Obsolete>>>,
    /// Connections that a user's limit refused.
    connections_refused: AtomicU64,
    /// Whose tokens count.
    issuer: RwLock<Option<Arc<Issuer>>>,
    /// It is another one.
    issuer_changed: tokio::sync::Notify,
    /// Tokens whose keys are not there.
    unknown: mpsc::Sender<jwks::Waiting>,
    unknown_seen: Mutex<Option<mpsc::Receiver<jwks::Waiting>>>,
    /// Fetches of keys.
    pub(crate) key_requests: outbound::Counts,
    /// Who is asked about users that nobody else knows.
    server: RwLock<Option<Arc<Server>>>,
    /// What it is to be asked.
    pub(crate) errands: Errands,
    granted: mpsc::UnboundedSender<Granted>,
    granted_seen: Mutex<Option<mpsc::UnboundedReceiver<Granted>>>,
}

/// A hash to be replaced.
pub(crate) struct Obsolete {
    pub user: Name,
    pub hash: Arc<PasswordHash>,
    pub password: Box<[u8]>,
}

/// Hashes to be replaced that may wait. Those beyond are replaced at the next login.
const OBSOLETE_MAX: usize = 64;

/// Where a login comes from.
pub(crate) struct Caller<'a> {
    /// Its protocol's name.
    pub protocol: &'a str,
    /// Its address, and what its certificate proved.
    pub peer: &'a Peer,
    /// What its listener says about clients without credentials, if it has a rule of its own.
    pub anonymous: Option<crate::config::Anonymous>,
}

impl Directory {
    /// With the rules that the configuration states, and nobody in it.
    ///
    /// # Errors
    /// The default user's password file cannot be read or is empty; the text names it.
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
        // At most one for each login that waits to be checked, and those are bounded.
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

    /// Others make the users of the first start.
    pub(crate) fn make_no_default_user(&self) {
        *self.first.lock() = None;
    }

    /// Takes what the log remembers. Returns how many records are damaged.
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

    /// Makes those who are there from the start, in the vhost of that number. Returns what is to be logged.
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

    /// Holds later logins against other rules, and tells the engines what that changes for the users of files.
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

    /// Tells a new engine what everybody may do.
    pub(crate) fn instruct(&self, vhost: VhostId, engine: &mut Engine) {
        self.people.read().instruct(vhost, engine);
    }

    /// Tells a vhost's engine what everybody may do.
    pub(crate) fn push(&self, vhost: &Vhost) {
        let people = self.people.read();
        vhost.enter(|engine| people.instruct(vhost.number, engine));
    }

    /// Deletions of all that is about a vhost. Its number is never used again, so what is left over grants nothing.
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

    /// Forgets all that is about a vhost.
    pub(crate) fn forget_vhost(&self, vhost: VhostId) {
        self.people.write().remove_vhost(vhost);
    }

    /// Tells engines what one user may do.
    fn push_user(&self, vhosts: &[Arc<Vhost>], user: &Name) {
        let people = self.people.read();
        for vhost in vhosts {
            vhost.enter(|engine| people.instruct_about(user, vhost.number, engine));
        }
    }

    /// What has become of logins' passwords.
    pub(crate) fn figures(&self) -> &hashing::Figures {
        self.hashing.figures()
    }

    /// Connections that a user's limit refused.
    pub(crate) fn connections_refused(&self) -> u64 {
        self.connections_refused.load(Ordering::Relaxed)
    }

    /// Whose tokens count.
    pub(crate) fn issuer(&self) -> Option<Arc<Issuer>> {
        self.issuer.read().clone()
    }

    /// Has another issuer's tokens count. Keys that were fetched are kept until they are fetched again.
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

    /// Has a token verified. If its key is not there, it waits in `unknown` until the keys are fetched.
    fn check_token(
        &self,
        issuer: Arc<Issuer>,
        user: Name,
        token: Box<[u8]>,
        to: &Arc<dyn Answer>,
        unknown: Option<mpsc::Sender<jwks::Waiting>>,
    ) -> Option<Event> {
        if token.len() > jwt::TOKEN_BYTES_MAX {
            return Some(lent::refused(user));
        }
        let (granted, bytes, waits) = (self.granted.clone(), token.len(), Arc::downgrade(to));
        let name = user.clone();
        let unknown = unknown.filter(|_| issuer.source.is_some());
        let verify = Box::new(move || match (issuer.verify(&token, lent::now()), unknown) {
            (Ok(token), _) => granted
                .send(Granted { token, to: waits })
                .err()
                .map(|_| lent::refused(name)),
            (Err(jwt::UNKNOWN_KEY), Some(unknown)) => {
                let waiting = jwks::Waiting {
                    user: name,
                    token,
                    to: waits,
                };
                let full = unknown.try_send(waiting).err();
                full.map(|error| lent::refused(error.into_inner().user))
            }
            (Err(why), _) => {
                tracing::debug!(%name, why, "a token was refused");
                Some(lent::refused(name))
            }
        });
        let busy = self.hashing.work(bytes, Arc::downgrade(to), verify).err();
        busy.map(|hashing::Busy| {
            let why = LoginFailure::Busy;
            Event::LoginRefused(Box::new(LoginRefused { user, why }))
        })
    }

    /// The tokens whose keys are not there. Once.
    pub(crate) fn unknown(&self) -> Option<mpsc::Receiver<jwks::Waiting>> {
        self.unknown_seen.lock().take()
    }

    /// What users that others bring take in memory, and how many there are.
    pub(crate) fn outside(&self) -> (usize, usize) {
        let people = self.people.read();
        (people.outside_bytes, people.lent.len())
    }

    /// The tokens that are good. Once.
    pub(crate) fn granted(&self) -> Option<mpsc::UnboundedReceiver<Granted>> {
        self.granted_seen.lock().take()
    }

    /// The hashes that should be made anew. Once.
    pub(crate) fn obsolete(&self) -> Option<mpsc::Receiver<Obsolete>> {
        self.obsolete_seen.lock().take()
    }

    /// Counts a connection among its user's, until the seat is dropped.
    ///
    /// # Errors
    /// QuotaExceeded: the user has as many as it may. AccessRefused: it was deleted since it logged in.
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

    /// Decides a login, or has its password checked: then the answer goes `to` whoever asks, later.
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
        let lacks_verifier = known.as_ref().is_some_and(|known| known.lacks_verifier(&rules));
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
            // Nobody has such a password, so the time it takes tells nothing.
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
            user,
            password,
            hash,
            to: Arc::downgrade(to),
            then: Box::new(move |is_right| {
                if let Some(renew) = renew.filter(|_| is_right) {
                    // If too many wait already, the next login does it.
                    let _ = obsolete.try_send(renew);
                }
                decide(is_right && is_known)
            }),
        };
        self.hashing.check(check).err().map(|check| {
            Event::LoginRefused(Box::new(LoginRefused {
                user: check.user,
                why: LoginFailure::Busy,
            }))
        })
    }
}

/// What back ends read from files.
pub(crate) struct Backends {
    file: FilePeople,
    issuer: Option<Issuer>,
    server: Option<Server>,
}

/// Reads what the back ends need that are asked.
///
/// # Errors
/// All that is wrong in it.
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
        for user in self.names_of_files().iter().chain(self.lent.keys()) {
            self.instruct_about(user, vhost, engine);
        }
    }

    /// Users that files say something about.
    fn names_of_files(&self) -> Vec<Name> {
        if !self.asks_file() {
            return Vec::new();
        }
        let nameless = self.file.nameless.iter().map(|_| self.nameless_user.clone());
        self.file.users.keys().cloned().chain(nameless).collect()
    }

    fn instruct_about(&self, user: &Name, vhost: VhostId, engine: &mut Engine) {
        // Files know of no vhosts: what they say is for the default one.
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
        let lent = self.lent.get(user).filter(|_| known.is_none());
        let lent = lent.and_then(|lent| Some((&lent.quota, lent.grant.rights(engine.vhost())?)));
        match known.map(|known| known.quota).zip(rights).or(lent) {
            Some((quota, rights)) => {
                engine.set_quota(user.clone(), Arc::clone(quota));
                engine.set_rights(user.clone(), rights);
            }
            None => engine.remove_rights(user),
        }
    }
}
