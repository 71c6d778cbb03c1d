//! The back end `http`: an operator's server decides who may log in, and what each user may do.
//!
//! ```text
//!   login, vhost ──► errands (bounded) ──► this task, some at a time ──► server
//!   engine's question ─┘                        │   └─ answers are cached for auth.cache_ttl
//!                                               └──► answer to the connection, or to the engine
//! ```
//!
//! - The server is asked about names that no other back end knows. A user it accepts exists here while it is connected.
//! - An *errand* is one request to the server with the connection that waits for the answer. A connection has one at a time. Only
//!   that connection waits: I/O threads and engines never do.
//! - No answer within `auth.http.timeout`, or an unusable one, is a refusal. A login is then refused as "busy", because "wrong
//!   password" would get the client banned. It is counted, and logged at the rate limit of other lines.
//! - The cache holds keyed digests of requests, so it holds no password. Refused passwords are not cached.

use super::hashing::Answer;
use super::jwt::Grant;
use super::people::{Backend, People, TemporaryUser};
use super::question::{About, Ask, Verdict, Who};
use super::temporary;
use super::{Caller, Directory, NAME_MAX, PASSWORD_BYTES_MAX};
use crate::config::{AuthHttp, Config, HttpStyle};
use crate::logging::lines::LineKind;
use crate::logging::shown;
use crate::node::Node;
use crate::outbound::{Bounds, Client, Counts, Outage, Url};
use crate::vhost::Vhost;
use gatepost_core::access::{Asked, Question};
use gatepost_core::command::{Peer, Said};
use gatepost_core::engine::Link;
use gatepost_core::event::{Event, LoginFailure, LoginRefused};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::Name;
use parking_lot::Mutex;
use ring::hmac;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// Maximum bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Maximum bytes of all waiting errands.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Minimum time for which an engine keeps an answer: the command that asked must still find it when it is retried. A
/// refusal because of an outage is kept this long.
const COUNTS_AT_LEAST: Duration = Duration::from_secs(1);
/// Seconds for which a user without connections is kept.
const STAYS: u64 = 60;

/// The HTTP server, as configured. A reload replaces it as a whole.
pub(crate) struct Server {
    style: HttpStyle,
    urls: HashMap<About, Url>,
    client: Client,
    pub(super) requests: usize,
    ttl: Duration,
    key: hmac::Key,
    remembered: Mutex<Remembered>,
}

/// Cached answers in two generations. When the young one is full it becomes the old one, and the previous old one is
/// dropped, with the entries that were not used in the meantime.
#[derive(Default)]
struct Remembered {
    young: HashMap<[u8; 32], (Verdict, Instant)>,
    old: HashMap<[u8; 32], (Verdict, Instant)>,
    /// Limit of one generation.
    entries_max: usize,
}

/// Estimated memory of an entry with a user's tags.
const REMEMBERED_BYTES: usize = 192;

impl Remembered {
    fn get(&mut self, digest: &[u8; 32]) -> Option<Verdict> {
        let (verdict, until) = match self.young.get(digest) {
            Some(known) => known.clone(),
            None => {
                let known = self.old.remove(digest)?;
                self.put(*digest, known.clone());
                known
            }
        };
        (Instant::now() < until).then_some(verdict)
    }

    fn put(&mut self, digest: [u8; 32], known: (Verdict, Instant)) {
        if self.young.len() >= self.entries_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, known);
    }
}

impl Server {
    /// Reads the configuration. `None`: `http` is not among `auth.backends`.
    ///
    /// # Errors
    /// A URL is not valid, or the file of certificate authorities cannot be read.
    pub(super) fn load(config: &Config) -> Result<Option<Server>, String> {
        if !super::rules::backends(config).contains(&Backend::Http) {
            return Ok(None);
        }
        let http = &config.auth_http;
        let mut urls = HashMap::new();
        for (about, text) in urls_of(http).into_iter().filter(|(_, text)| !text.is_empty()) {
            urls.insert(about, Url::parse(text)?);
        }
        let bounds = Bounds {
            timeout: http.timeout.0,
            requests: http.requests_max,
            answer_bytes: ANSWER_BYTES_MAX,
        };
        let mut key = [0; 32];
        super::password::fill_random(&mut key);
        Ok(Some(Server {
            style: http.style,
            urls,
            client: Client::new(&http.ca, bounds)?,
            requests: http.requests_max,
            ttl: config.auth.cache_ttl.0,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            remembered: Mutex::new(Remembered {
                // Both generations together may use a quarter of `auth.outside_memory`.
                entries_max: (config.auth.outside_memory.bytes() / 8 / REMEMBERED_BYTES).max(1),
                ..Remembered::default()
            }),
        }))
    }

    async fn ask(&self, ask: &Ask, counts: &Counts) -> Result<Verdict, Outage> {
        let Some(url) = self.urls.get(&ask.about) else {
            return Ok(Verdict::allow());
        };
        let (kind, body) = ask.body(self.style);
        let digest = self.digest(ask.about, &body);
        if let Some(known) = self.remembered.lock().get(&digest) {
            return Ok(known);
        }
        let answer = self.client.post(url, kind, body).await;
        let verdict = answer.and_then(|body| {
            let nonsense = || Outage::Broken("its answer makes no sense".to_owned());
            Verdict::parse(self.style, &body).ok_or_else(nonsense)
        });
        counts.count(verdict.is_ok());
        if let Ok(verdict) = &verdict
            && !self.ttl.is_zero()
            && (ask.about != About::User || matches!(verdict, Verdict::Allow { .. }))
        {
            let until = Instant::now() + self.ttl;
            self.remembered.lock().put(digest, (verdict.clone(), until));
        }
        verdict
    }

    fn digest(&self, about: About, body: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&[about as u8]);
        context.update(body.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// The URLs of the configuration, by the subject of the question.
pub(crate) fn urls_of(http: &AuthHttp) -> [(About, &str); 4] {
    [
        (About::User, &*http.user_url),
        (About::Vhost, &*http.vhost_url),
        (About::Resource, &*http.resource_url),
        (About::Topic, &*http.topic_url),
    ]
}

/// A client's credentials.
#[derive(Default)]
pub(super) struct Credentials {
    /// `None`: its certificate proved the name.
    pub(super) password: Option<Box<[u8]>>,
    pub(super) said: Said,
}

/// A request to the server, and the receiver of the answer.
pub(crate) struct Errand {
    server: Arc<Server>,
    ask: Ask,
    user: Name,
    to: To,
    /// Memory that it holds while it waits.
    bytes: usize,
}

enum To {
    Login {
        is_local: bool,
        to: Weak<dyn Answer>,
    },
    Vhost {
        name: Name,
        to: Weak<dyn Answer>,
    },
    Engine {
        vhost: Arc<Vhost>,
        link: Link,
        question: Question,
    },
}

/// The queue to the task that sends the requests.
pub(crate) struct Errands {
    sender: mpsc::UnboundedSender<Errand>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Errand>>>,
    pub(super) waiting: AtomicUsize,
    bytes: AtomicUsize,
    /// Requests that succeeded and failed.
    pub(crate) counts: Counts,
}

impl Errands {
    pub(super) fn new() -> Errands {
        let (sender, receiver) = mpsc::unbounded_channel();
        Errands {
            sender,
            receiver: Mutex::new(Some(receiver)),
            waiting: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            counts: Counts::default(),
        }
    }

    /// The queue's receiver. Returns it once, then `None`.
    pub(crate) fn receiver(&self) -> Option<mpsc::UnboundedReceiver<Errand>> {
        self.receiver.lock().take()
    }

    /// Errands that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn send(&self, mut errand: Errand, waiting_max: usize) -> Result<(), Errand> {
        errand.bytes = errand.ask.bytes() + size_of::<Errand>();
        let bytes = self.bytes.fetch_add(errand.bytes, Ordering::Relaxed) + errand.bytes;
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting < waiting_max && bytes <= WAITING_BYTES_MAX {
            return self.sender.send(errand).map_err(|error| error.0);
        }
        self.took(&errand);
        Err(errand)
    }

    /// Uncounts an errand that has left the queue.
    fn took(&self, errand: &Errand) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(errand.bytes, Ordering::Relaxed);
    }
}

impl Directory {
    /// The HTTP server, if `http` is among `auth.backends`.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        self.server.read().clone()
    }

    /// Replaces the server.
    pub(super) fn replace_server(&self, server: Option<Server>) {
        *self.server.write() = server.map(Arc::new);
    }

    /// Asks the server about a login. The answer goes to `to`, unless it is returned at once.
    pub(super) fn ask_login(
        &self,
        server: Arc<Server>,
        from: &Caller<'_>,
        user: Name,
        credentials: Credentials,
        to: &Arc<dyn Answer>,
    ) -> Option<Event> {
        let password = credentials.password.as_deref();
        let is_possible = |password: &[u8]| !password.is_empty() && password.len() <= PASSWORD_BYTES_MAX;
        let text = password.map(std::str::from_utf8).transpose();
        let is_name = !user.is_empty() && user.len() <= NAME_MAX && !user.contains(char::is_control);
        let Some(text) = text.ok().filter(|_| is_name && password.is_none_or(is_possible)) else {
            return Some(temporary::refused(user));
        };
        let errand = Errand {
            ask: Ask::user(&user, text, &credentials.said),
            server,
            user,
            to: To::Login {
                is_local: from.peer.is_local,
                to: Arc::downgrade(to),
            },
            bytes: 0,
        };
        self.errands
            .send(errand, self.rules.read().logins_waiting_max)
            .err()
            .map(|errand| busy(errand.user))
    }

    /// Asks the server whether a user may use a vhost. The answer is [`Event::Attached`] or [`Event::AttachRefused`].
    pub(crate) fn ask_vhost(
        &self,
        user: &Name,
        vhost: &Name,
        client_id: Option<&Name>,
        peer: &Peer,
        to: &Arc<dyn Answer>,
    ) {
        let errand = self.server().map(|server| {
            let people = self.people.read();
            let who = Who {
                client_id: client_id.map(|id| &**id),
                ..who(&people, user, vhost)
            };
            Errand {
                ask: Ask::vhost(who, peer.address.map(|address| address.ip())),
                server,
                user: user.clone(),
                to: To::Vhost {
                    name: vhost.clone(),
                    to: Arc::downgrade(to),
                },
                bytes: 0,
            }
        });
        let sent = errand.is_some_and(|errand| self.errands.send(errand, usize::MAX).is_ok());
        if !sent {
            to.answer(not_this_vhost(user, vhost));
        }
    }

    /// Asks the server an engine's question about a right. The answer goes to the engine.
    pub(crate) fn ask_question(&self, vhost: &Arc<Vhost>, link: Link, asked: Asked, now: gatepost_core::time::Time) {
        let refuse = |question| {
            let until = now + COUNTS_AT_LEAST;
            vhost.enter(|engine| engine.answer_question(link, question, false, until));
        };
        let Some(server) = self.server() else {
            return refuse(asked.question);
        };
        let ask = {
            let people = self.people.read();
            let who = Who {
                client_id: asked.client_id.as_deref(),
                ..who(&people, &asked.user, &vhost.name)
            };
            Ask::question(who, &asked)
        };
        let errand = Errand {
            server,
            ask,
            user: asked.user,
            to: To::Engine {
                vhost: Arc::clone(vhost),
                link,
                question: asked.question,
            },
            bytes: 0,
        };
        if let Err(Errand {
            to: To::Engine { question, .. },
            ..
        }) = self.errands.send(errand, usize::MAX)
        {
            self.errands.counts.count(false);
            refuse(question);
        }
    }

    /// Whether the server is asked about each of this user's rights.
    pub(crate) fn is_asked(&self, user: &str) -> bool {
        let people = self.people.read();
        people.known(user).is_none()
            && people
                .temporary
                .get(user)
                .is_some_and(|added| added.by == Backend::Http && !added.grant.is_everything())
    }
}

fn who<'a>(people: &'a People, user: &'a Name, vhost: &'a str) -> Who<'a> {
    Who {
        user,
        vhost,
        tags: people.temporary.get(user).map_or(&[], |added| &added.grant.tags),
        client_id: None,
    }
}

fn busy(user: Name) -> Event {
    let why = LoginFailure::Busy;
    Event::LoginRefused(Box::new(LoginRefused { user, why }))
}

fn not_this_vhost(user: &str, vhost: &str) -> Event {
    let text = format!("access to vhost '{vhost}' refused for user '{user}'");
    Event::AttachRefused(Box::new(Fault::new(FaultKind::AccessRefused, text)))
}

/// Runs errands, several at a time, until the node ends.
pub(crate) async fn run(node: &Arc<Node>, mut errands: mpsc::UnboundedReceiver<Errand>) {
    let turns = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(errand) = errands.recv().await {
        while tasks.try_join_next().is_some() {}
        // Each errand takes a share of the permits, so that at most `requests_max` of its server's requests run at
        // once.
        let turn = Arc::clone(&turns)
            .acquire_many_owned(share(errand.server.requests))
            .await;
        node.directory.errands.took(&errand);
        if errand.is_abandoned() {
            continue;
        }
        let node = Arc::clone(node);
        tasks.spawn(async move {
            errand.run(&node).await;
            drop(turn);
        });
    }
}

/// Permits of the semaphore, and the largest `auth.http.requests_max`.
pub(crate) const REQUESTS_MAX: usize = 256;

fn share(requests: usize) -> u32 {
    u32::try_from(REQUESTS_MAX / requests.clamp(1, REQUESTS_MAX)).unwrap_or(1)
}

impl Errand {
    /// Whether the connection that waited has closed.
    fn is_abandoned(&self) -> bool {
        match &self.to {
            To::Login { to, .. } | To::Vhost { to, .. } => to.strong_count() == 0,
            // Commands that a link sent before it closed are still applied, so their questions need answers.
            To::Engine { .. } => false,
        }
    }

    async fn run(self, node: &Node) {
        let Errand {
            server, ask, user, to, ..
        } = self;
        let verdict = server.ask(&ask, &node.directory.errands.counts).await;
        let line = match &verdict {
            Err(outage) => Some(outage.to_string()),
            Ok(Verdict::Deny(reason)) => reason.clone(),
            Ok(Verdict::Allow { .. }) => None,
        };
        if let Some(why) = line
            && node.lines.admit(LineKind::Outside)
        {
            let (about, user, why) = (ask.about, &*shown(&user), &*shown(&why));
            if verdict.is_err() {
                tracing::warn!(user, ?about, why, "the HTTP back end gives no answer: refused");
            } else {
                tracing::info!(user, ?about, why, "denied by the HTTP back end");
            }
        }
        match to {
            To::Login { is_local, to } => {
                let Some(to) = to.upgrade() else { return };
                to.answer(match verdict {
                    Ok(Verdict::Allow { tags, superuser }) => {
                        admit(node, user, is_local, Grant::outside(tags, superuser))
                    }
                    Ok(Verdict::Deny(_)) => temporary::refused(user),
                    Err(_) => busy(user),
                });
            }
            To::Vhost { name, to } => {
                let Some(to) = to.upgrade() else { return };
                to.answer(match verdict {
                    Ok(Verdict::Allow { .. }) => Event::Attached,
                    _ => not_this_vhost(&user, &name),
                });
            }
            To::Engine { vhost, link, question } => {
                let is_permitted = matches!(verdict, Ok(Verdict::Allow { .. }));
                let life = if verdict.is_ok() { server.ttl } else { COUNTS_AT_LEAST };
                let until = node.clock.now().monotonic + life.max(COUNTS_AT_LEAST);
                vhost.enter(|engine| engine.answer_question(link, question, is_permitted, until));
            }
        }
    }
}

/// Adds a user whom the server accepted. Returns the answer to its login.
fn admit(node: &Node, user: Name, is_local: bool, grant: Grant) -> Event {
    let rules = Arc::clone(&node.directory.rules.read());
    if let Err(why) = rules.verdict(&user, true, is_local) {
        return Event::LoginRefused(Box::new(LoginRefused { user, why }));
    }
    let added = TemporaryUser {
        bytes: temporary::bytes(&user, &grant),
        grant,
        quota: Arc::default(),
        until: temporary::now() + STAYS,
        by: Backend::Http,
    };
    temporary::put(node, user, added)
}
