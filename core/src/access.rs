//! Users' rights in a vhost, as data, and each connection's cache of decisions.
//!
//! ```text
//!   directory ──set_rights(user, Rights)──► engine ──checks each command──► Access of the link ──► Rights of its user
//! ```
//!
//! The directory pushes rights into each engine; an engine never asks the directory. So a decision needs no other lock,
//! and a replay of the same calls makes the same decisions. A user whose rights were not pushed has none.
//!
//! Rights are of two kinds. *Names*: which queues and exchanges may be configured, written to and read from, as regular
//! expressions like RabbitMQ's. *Topics*: which keys of an exchange may be written to and read from, as level patterns.
//! Topic rules are checked after those of names, and only if the exchange has any.
//!
//! The rights of some users are known to an external server only ([`Rights::asked`]). The engine then reports a question, and
//! the command waits for the answer: see `asking.rs`.
//!
//! Rights are checked when a command is applied: an existing consumer or subscription stays when its right is
//! revoked. Each publish is checked, so a revoked right refuses the next one.

mod asking;
mod names;
mod rules;

pub use asking::{Asked, Question, Subject};
pub(crate) use asking::{Asking, Sought, Verdict};
pub use names::{InvalidNamePattern, NamePattern, PATTERN_BYTES_MAX};

use crate::ledger::{Ledger, ObjectKind};
use crate::message::{Dialect, Message};
use crate::properties::Name;
use crate::quota::Quota;
use crate::time::Time;
use crate::topic::{InvalidFilter, Level, Levels, Pattern};
use hashbrown::HashMap;
use rules::Rules;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// A kind of permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Declare or delete.
    Configure,
    /// Publish to an exchange, or bind a destination.
    Write,
    /// Consume, get or purge, or bind something to a source.
    Read,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Permission::Configure => "configure",
            Permission::Write => "write",
            Permission::Read => "read",
        })
    }
}

/// The topics that a permission covers: a pattern of levels in which `{username}`, `{client_id}` and `{vhost}` stand for
/// those of the connection. Their values are never read as wildcards or separators. If a connection
/// has no client id, a pattern with `{client_id}` matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    pattern: Pattern,
    /// It has a placeholder.
    template: bool,
}

impl TopicPattern {
    /// Reads a pattern. In the slash dialect a leading wildcard does not match topics that start with `$`, as in a
    /// subscription; in the dot dialect it does.
    ///
    /// # Errors
    /// [`InvalidFilter`], in the slash dialect only.
    pub fn parse(text: &str, dialect: Dialect) -> Result<TopicPattern, InvalidFilter> {
        let pattern = Pattern::parse(text, dialect)?;
        let has_placeholder =
            |level: &Level| matches!(level, Level::Literal(text) if PLACEHOLDERS.iter().any(|p| text.contains(p)));
        Ok(TopicPattern {
            template: pattern.levels().iter().any(has_placeholder),
            pattern,
        })
    }

    /// Whether it is another pattern for each client id.
    fn depends_on_client(&self) -> bool {
        let has_client = |level: &Level| matches!(level, Level::Literal(text) if text.contains(CLIENT_ID));
        self.template && self.pattern.levels().iter().any(has_client)
    }

    /// Evaluates `ask` on the pattern for one connection. `false` if the pattern does not apply to the connection.
    fn is_such(&self, who: Who<'_>, ask: impl FnOnce(&Pattern) -> bool) -> bool {
        if self.template {
            self.resolved(who).is_some_and(|pattern| ask(&pattern))
        } else {
            ask(&self.pattern)
        }
    }

    /// Whether it matches a topic, for one connection. Called for messages, so it builds no text.
    fn matches(&self, topic: &Levels<'_>, who: Who<'_>) -> bool {
        if self.template {
            self.pattern
                .matches_by(topic, |level, found| is_filled_in(level, found, who))
        } else {
            self.pattern.matches(topic)
        }
    }

    /// The pattern for one connection; `None`: it does not apply to it.
    fn resolved(&self, who: Who<'_>) -> Option<Pattern> {
        self.pattern.replaced(|level| {
            if level.contains(CLIENT_ID) && who.client_id.is_none() {
                return None;
            }
            Some(filled_in(level, who))
        })
    }
}

const USERNAME: &str = "{username}";
const CLIENT_ID: &str = "{client_id}";
const VHOST: &str = "{vhost}";
const PLACEHOLDERS: [&str; 3] = [USERNAME, CLIENT_ID, VHOST];

/// Fills in the placeholders of `level` in one pass, so that a user named `{client_id}` is not replaced again.
fn filled_in(level: &str, who: Who<'_>) -> Box<str> {
    let mut text = String::with_capacity(level.len());
    let mut rest = level;
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let values = [who.user, who.client_id.unwrap_or_default(), who.vhost];
        let found = PLACEHOLDERS
            .iter()
            .zip(values)
            .find(|(name, _)| rest.starts_with(**name));
        let (read, value) = found.map_or(("{", "{"), |(name, value)| (*name, value));
        text.push_str(value);
        rest = &rest[read.len()..];
    }
    text.push_str(rest);
    text.into()
}

/// Whether `found` equals [`filled_in`] of `level`, without building the text.
fn is_filled_in(level: &str, found: &str, who: Who<'_>) -> bool {
    let (mut level, mut found) = (level, found);
    loop {
        let literal = level.find('{').unwrap_or(level.len());
        let Some(rest) = found.strip_prefix(&level[..literal]) else {
            return false;
        };
        (level, found) = (&level[literal..], rest);
        if level.is_empty() {
            return found.is_empty();
        }
        let values = [Some(who.user), who.client_id, Some(who.vhost)];
        let placeholder = PLACEHOLDERS
            .iter()
            .zip(values)
            .find(|(name, _)| level.starts_with(**name));
        let (read, value) = placeholder.map_or(("{", Some("{")), |(name, value)| (*name, value));
        let Some(rest) = value.and_then(|value| found.strip_prefix(value)) else {
            return false;
        };
        (level, found) = (&level[read.len()..], rest);
    }
}

/// The connection that a decision is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) user: &'a str,
    pub(crate) client_id: Option<&'a str>,
    pub(crate) vhost: &'a str,
}

/// A list of topic patterns.
#[derive(Default)]
struct Topics {
    allowed: Rules,
    /// Denied topics, which take precedence.
    denied: Rules,
    /// Whether to refuse filters that match any denied topic, not only filters that match nothing else.
    refuses_wider: bool,
}

impl Topics {
    fn new(patterns: Vec<TopicPattern>) -> Topics {
        Topics {
            allowed: Rules::new(patterns),
            denied: Rules::default(),
            refuses_wider: false,
        }
    }

    fn allow(&self, key: &[u8], dialect: Dialect, who: Who<'_>) -> bool {
        self.allowed.match_topic(key, dialect, who) && !self.denied.match_topic(key, dialect, who)
    }

    fn allow_all_of(&self, filter: &Pattern, who: Who<'_>) -> bool {
        let is_denied = |pattern: &Pattern| {
            if self.refuses_wider {
                pattern.overlaps(filter)
            } else {
                pattern.covers(filter)
            }
        };
        let (allowed, denied) = (self.allowed.patterns(), self.denied.patterns());
        allowed.iter().any(|t| t.is_such(who, |p| p.covers(filter)))
            && !denied.iter().any(|t| t.is_such(who, is_denied))
    }
}

/// The topics of one exchange.
struct TopicRules {
    exchange: Name,
    write: Topics,
    read: Topics,
}

/// A user's rights in a vhost. The default is none.
#[derive(Default)]
pub struct Rights {
    configure: NamePattern,
    write: NamePattern,
    read: NamePattern,
    topics: Vec<TopicRules>,
    /// An external server knows them.
    asked: bool,
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topics: Vec<_> = self.topics.iter().map(|rules| &rules.exchange).collect();
        f.debug_struct("Rights")
            .field("configure", &self.configure)
            .field("write", &self.write)
            .field("read", &self.read)
            .field("topics", &topics)
            .field("asked", &self.asked)
            .finish()
    }
}

impl Rights {
    /// All rights.
    pub fn all() -> Rights {
        Rights::new(NamePattern::all(), NamePattern::all(), NamePattern::all())
    }

    /// Rights that an external server knows: each question is handed out by [`Engine::take_question`], and its command waits
    /// for the answer.
    ///
    /// [`Engine::take_question`]: crate::engine::Engine::take_question
    pub fn asked() -> Rights {
        Rights {
            asked: true,
            ..Rights::default()
        }
    }

    /// Rights for queues and exchanges of these names, without limits on topics. The default exchange is named `amq.default`
    /// here.
    pub fn new(configure: NamePattern, write: NamePattern, read: NamePattern) -> Rights {
        Rights {
            configure,
            write,
            read,
            topics: Vec::new(),
            asked: false,
        }
    }

    /// Limits the topics of an exchange to those that match one of the patterns. Replaces earlier rules for the exchange.
    #[must_use]
    pub fn with_topics(mut self, exchange: &str, write: Vec<TopicPattern>, read: Vec<TopicPattern>) -> Rights {
        self.topics.retain(|rules| *rules.exchange != *exchange);
        self.topics.push(TopicRules {
            exchange: exchange.into(),
            write: Topics::new(write),
            read: Topics::new(read),
        });
        self
    }

    /// Denies topics of an exchange. Call it after [`Rights::with_topics`].
    ///
    /// A filter that matches only such topics is refused. One that matches other topics too is refused if
    /// `refuses_wider`. Otherwise it is granted with the denied topics, because messages are not checked one by one.
    #[must_use]
    pub fn without_topics(
        mut self,
        exchange: &str,
        write: Vec<TopicPattern>,
        read: Vec<TopicPattern>,
        refuses_wider: bool,
    ) -> Rights {
        for rules in self.topics.iter_mut().filter(|rules| *rules.exchange == *exchange) {
            for (topics, denied) in [(&mut rules.write, &write), (&mut rules.read, &read)] {
                topics.denied = Rules::new(denied.clone());
                topics.refuses_wider = refuses_wider;
            }
        }
        self
    }

    /// Whether the permission covers a queue's or exchange's name.
    pub fn permit(&self, permission: Permission, name: &str) -> bool {
        self.names(permission).matches(name)
    }

    fn names(&self, permission: Permission) -> &NamePattern {
        match permission {
            Permission::Configure => &self.configure,
            Permission::Write => &self.write,
            Permission::Read => &self.read,
        }
    }

    /// Whether what may be published is another thing for each client id.
    fn write_depends_on_client(&self) -> bool {
        let mut all = self
            .topics
            .iter()
            .flat_map(|rules| [&rules.write.allowed, &rules.write.denied]);
        all.any(|rules| rules.patterns().iter().any(TopicPattern::depends_on_client))
    }

    /// Whether everything is permitted.
    pub(crate) fn is_everything(&self) -> bool {
        let names = [&self.configure, &self.write, &self.read];
        self.topics.is_empty() && names.iter().all(|names| names.is_all())
    }

    fn rules(&self, permission: Permission, exchange: &[u8]) -> Option<&Topics> {
        let rules = self.topics.iter().find(|rules| rules.exchange.as_bytes() == exchange)?;
        Some(match permission {
            Permission::Read => &rules.read,
            Permission::Configure | Permission::Write => &rules.write,
        })
    }

    /// Whether an external server knows the rights.
    pub(crate) fn are_asked(&self) -> bool {
        self.asked
    }

    /// Whether there are topic rules for an exchange.
    pub(crate) fn limits_topics(&self, exchange: &str) -> bool {
        self.asked || self.topics.iter().any(|rules| *rules.exchange == *exchange)
    }

    /// Whether the permission covers the topic `key` of an exchange.
    pub(crate) fn permit_topic(
        &self,
        p: Permission,
        exchange: &[u8],
        (key, d): (&[u8], Dialect),
        who: Who<'_>,
    ) -> bool {
        self.rules(p, exchange).is_none_or(|topics| topics.allow(key, d, who))
    }

    pub(crate) fn permit_filter(&self, p: Permission, exchange: &str, filter: &Pattern, who: Who<'_>) -> bool {
        self.rules(p, exchange.as_bytes())
            .is_none_or(|topics| topics.allow_all_of(filter, who))
    }
}

/// All who may publish the same: the connections of one user, or one of them if its client id decides. With other rights they
/// have another number. None is used again, so a route can remember whom it was last permitted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permitted(u64);

impl Permitted {
    pub(crate) const NOBODY: Permitted = Permitted(0);
}

/// The rights of a vhost's users.
#[derive(Default)]
pub(crate) struct UserRights {
    /// Never iterated.
    users: HashMap<Name, Granted>,
    /// Each user's limits and counts. Never iterated.
    quotas: HashMap<Name, Arc<Quota>>,
    /// Number of changes so far.
    generation: u64,
    /// There are users of tokens or of an HTTP server. So a user without rights may come back, and its sessions are kept.
    pub(crate) come_and_go: bool,
    /// See [`Permitted`].
    last_number: Cell<u64>,
}

/// What one user has.
struct Granted {
    rights: Arc<Rights>,
    /// `None`: each of its connections is one by itself.
    permitted: Option<Permitted>,
}

impl UserRights {
    pub(crate) fn set(&mut self, user: Name, rights: Arc<Rights>) {
        // Unchanged rights do not invalidate the links' caches.
        if self.of(&user).is_some_and(|before| Arc::ptr_eq(before, &rights)) {
            return;
        }
        self.generation += 1;
        let permitted = (!rights.write_depends_on_client()).then(|| self.next_permitted());
        self.users.insert(user, Granted { rights, permitted });
    }
    fn next_permitted(&self) -> Permitted {
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        Permitted(number)
    }
    /// Whom a route remembers that is permitted to one of the user's connections.
    fn permitted(&self, user: &str) -> Permitted {
        let all = self.users.get(user).and_then(|granted| granted.permitted);
        all.unwrap_or_else(|| self.next_permitted())
    }
    pub(crate) fn remove(&mut self, user: &str) {
        self.quotas.remove(user);
        if self.users.remove(user).is_some() {
            self.generation += 1;
        }
    }
    pub(crate) fn set_quota(&mut self, user: Name, quota: Arc<Quota>) {
        self.quotas.insert(user, quota);
    }
    pub(crate) fn quota(&self, user: &str) -> Option<&Arc<Quota>> {
        self.quotas.get(user)
    }
    pub(crate) fn of(&self, user: &str) -> Option<&Arc<Rights>> {
        self.users.get(user).map(|granted| &granted.rights)
    }
}

/// A link's cache of its user's rights.
///
/// Fields used in each turn are first, next to each other, so that a turn touches few cold cache lines.
#[repr(C)]
pub(crate) struct Access {
    /// The generation of the cached decisions.
    generation: u64,
    /// Whether everything is permitted.
    everything: bool,
    /// The link belongs to the node itself, which may do everything.
    of_node: bool,
    /// Cached decisions about publishes; made at the first publish of a user with limited rights.
    recent: Option<Box<Recent>>,
    // Rarely used fields.
    pub(crate) user: Name,
    /// The client id, if the protocol has one; the value of `{client_id}`.
    pub(crate) client_id: Option<Name>,
    /// The user's rights at `generation`; `None`: no rights.
    rights: Option<Arc<Rights>>,
}

/// Recently permitted publishes.
#[derive(Default)]
struct Recent {
    /// What a cached route holds if this connection may publish along it.
    permitted: Permitted,
    /// Numbers of permitted routes, each at the index of its lowest bits. A route itself remembers the last user only.
    routes: [u64; ROUTES],
    /// A permitted exchange.
    exchange: Option<Name>,
    /// For a user with external rights: the answers so far, instead of the fields above.
    asking: Option<Box<Asking>>,
}

/// Routes whose permission a link caches itself.
const ROUTES: usize = 16;

impl Access {
    pub(crate) fn new(user: Name, users: &UserRights) -> Access {
        let mut access = Access {
            user,
            client_id: None,
            rights: None,
            generation: 0,
            everything: false,
            of_node: false,
            recent: None,
        };
        access.look_up(users);
        access
    }

    /// For a connection of the node itself.
    pub(crate) fn of_node(users: &UserRights) -> Access {
        Access {
            user: Name::default(),
            client_id: None,
            rights: None,
            generation: users.generation,
            everything: true,
            of_node: true,
            recent: None,
        }
    }

    /// Whether the cache permits a message along the route. `route`: the route's number, if it is cached, and who was last
    /// permitted to use it.
    #[inline]
    pub(crate) fn knows(&self, users: &UserRights, route: Option<(u64, Permitted)>) -> bool {
        self.generation == users.generation && (self.everything || self.remembers(route))
    }

    fn remembers(&self, route: Option<(u64, Permitted)>) -> bool {
        let (Some(recent), Some((route, permitted))) = (&self.recent, route) else {
            return false;
        };
        (permitted == recent.permitted && permitted != Permitted::NOBODY)
            || recent.routes[route as usize % ROUTES] == route
    }

    /// The user's current rights; `None`: all rights.
    pub(crate) fn limits(&mut self, users: &UserRights) -> Option<&Rights> {
        if self.generation != users.generation {
            self.look_up(users);
        }
        if self.everything {
            return None;
        }
        static NONE: std::sync::LazyLock<Rights> = std::sync::LazyLock::new(Rights::default);
        Some(self.rights.as_deref().unwrap_or(&NONE))
    }

    /// Whether it is the node's own connection.
    pub(crate) fn is_of_node(&self) -> bool {
        self.of_node
    }

    fn look_up(&mut self, users: &UserRights) {
        self.rights = users.of(&self.user).cloned();
        self.everything = self.of_node || self.rights.as_ref().is_some_and(|rights| rights.is_everything());
        self.generation = users.generation;
        // External answers expire on their own.
        let asking = self
            .recent
            .take()
            .filter(|_| self.is_asked())
            .and_then(|recent| recent.asking);
        self.recent = asking.map(|asking| {
            Box::new(Recent {
                asking: Some(asking),
                ..Recent::default()
            })
        });
    }

    /// Sets the client id and drops cached decisions, which were made without it.
    pub(crate) fn set_client_id(&mut self, client_id: &Name) {
        if self.client_id.as_ref() != Some(client_id) {
            self.client_id = Some(client_id.clone());
            self.recent = None;
        }
    }

    /// Looks up the external server's answer. If there is none, registers the question.
    pub(crate) fn ask(&mut self, sought: Sought<'_>, now: Time, ledger: &Arc<Ledger>) -> Verdict {
        self.begin_asking(ledger).verdict(sought, now)
    }

    pub(crate) fn begin_asking(&mut self, ledger: &Arc<Ledger>) -> &mut Asking {
        let new = || Box::new(Asking::new(ledger.charge(ObjectKind::Connections, size_of::<Asking>())));
        self.recent.get_or_insert_default().asking.get_or_insert_with(new)
    }

    /// The external answers, if a question was ever asked.
    pub(crate) fn asking(&mut self) -> Option<&mut Asking> {
        self.recent.as_mut()?.asking.as_deref_mut()
    }

    /// Whether the link's first command waits for an answer.
    pub(crate) fn awaits_answer(&self) -> bool {
        let asking = self.recent.as_ref().and_then(|recent| recent.asking.as_ref());
        asking.is_some_and(|asking| asking.is_pending())
    }

    /// Whether the rights that the last [`Access::limits`] looked up are external.
    pub(crate) fn is_asked(&self) -> bool {
        self.rights.as_ref().is_some_and(|rights| rights.are_asked())
    }

    /// The rights that the last [`Access::limits`] looked up.
    pub(crate) fn with_rights(&self) -> Option<(&Access, &Rights)> {
        Some((self, self.rights.as_deref()?))
    }

    pub(crate) fn who<'a>(&'a self, vhost: &'a str) -> Who<'a> {
        Who {
            user: &self.user,
            client_id: self.client_id.as_deref(),
            vhost,
        }
    }

    /// Whether the cache permits publishing to the exchange.
    pub(crate) fn wrote_to(&self, exchange: &[u8]) -> bool {
        let last = self.recent.as_ref().and_then(|recent| recent.exchange.as_ref());
        last.is_some_and(|last| last.as_bytes() == exchange)
    }

    /// Caches that a message may be published. `route`: the number of its route. The caller stores the result in the route.
    pub(crate) fn remember(&mut self, users: &UserRights, message: &Message, route: Option<u64>) -> Permitted {
        let known = self.wrote_to(message.exchange_bytes());
        let recent = self.recent.get_or_insert_default();
        if recent.permitted == Permitted::NOBODY {
            recent.permitted = users.permitted(&self.user);
        }
        if let Some(route) = route {
            recent.routes[route as usize % ROUTES] = route;
        }
        if !known {
            recent.exchange = Some(message.exchange().into());
        }
        recent.permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dialect::{Dot, Slash};

    fn names(text: &str) -> NamePattern {
        NamePattern::parse(text).expect("a pattern")
    }

    fn slash(texts: &[&str]) -> Vec<TopicPattern> {
        let parse = |text: &&str| TopicPattern::parse(text, Slash).expect("a filter");
        texts.iter().map(parse).collect()
    }

    #[test]
    fn a_name_pattern_matches_anywhere_and_the_empty_one_nothing() {
        assert!(names("q").matches("my-queue") && !names("^q").matches("my-queue"));
        assert!(names("^(a|b)$").matches("a") && !names("^(a|b)$").matches("ab"));
        assert!(names(".*").matches("") && names(".*").matches("anything"));
        for none in ["", "^$"] {
            assert!(!names(none).matches("") && !names(none).matches("q"));
        }
        assert!(NamePattern::parse("(").is_err());
        assert!(NamePattern::parse(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
        assert!(
            NamePattern::parse("((a{100}){100}){100}").is_err(),
            "too large once compiled"
        );
    }

    fn published() -> Message {
        Message::new(crate::message::Envelope::default(), "amq.topic", "k", b"", b"")
    }

    fn rights() -> Rights {
        let read = slash(&["dev/{client_id}/#", "u-{username}/+", "pub/#"]);
        let write = slash(&["dev/{client_id}/up"]);
        Rights::all().with_topics("amq.topic", write, read)
    }

    fn who<'a>(user: &'a str, client_id: Option<&'a str>) -> Who<'a> {
        Who {
            user,
            client_id,
            vhost: "/",
        }
    }

    /// A topic is compared without building the text; the result must be the same.
    #[test]
    fn a_level_is_compared_as_it_is_filled_in() {
        let who = who("a{b", Some("{username}"));
        let levels = [
            "",
            "{",
            "a{b",
            "{username}",
            "{username}x",
            "x{client_id}{vhost}",
            "{{vhost}}",
            "{user",
            "a{bx",
        ];
        let found = [
            "",
            "{",
            "a{b",
            "a{bx",
            "x{username}/",
            "{/}",
            "{user",
            "{username}",
            "/",
        ];
        for level in levels {
            for found in found {
                assert_eq!(
                    is_filled_in(level, found, who),
                    *filled_in(level, who) == *found,
                    "{level} {found}"
                );
            }
        }
        let nobody = Who { client_id: None, ..who };
        assert!(!is_filled_in("{client_id}", "", nobody));
    }

    #[test]
    fn placeholders_stand_for_the_connection() {
        let r = rights();
        let may = |topic: &str, who| r.permit_topic(Permission::Write, b"amq.topic", (topic.as_bytes(), Slash), who);
        assert!(may("dev/a/up", who("u", Some("a"))));
        assert!(!may("dev/b/up", who("u", Some("a"))) && !may("dev/a/down", who("u", Some("a"))));
        assert!(!may("dev//up", who("u", None)), "it has no client id");
        let reads = |filter: &str, who| {
            let filter = Pattern::parse(filter, Slash).expect("a filter");
            r.permit_filter(Permission::Read, "amq.topic", &filter, who)
        };
        assert!(
            reads("dev/a/+", who("u", Some("a"))) && reads("u-u/x", who("u", None)) && reads("pub/+", who("u", None))
        );
        assert!(!reads("dev/+/x", who("u", Some("a"))) && !reads("#", who("u", Some("a"))));
        // The topics of an exchange without rules are not limited.
        assert!(r.permit_topic(Permission::Write, b"other", (b"x.y", Dot), who("u", None)));
    }

    /// A client named `+` or `a/#` must not get other clients' topics, nor one named like a placeholder.
    #[test]
    fn what_a_placeholder_stands_for_is_no_wildcard() {
        let r = rights();
        for id in ["+", "#", "a/#", "x/+", "{username}"] {
            for filter in ["dev/+/up", "dev/a/up", "dev/#", "dev/u/up"] {
                let filter = Pattern::parse(filter, Slash).expect("a filter");
                let may = r.permit_filter(Permission::Read, "amq.topic", &filter, who("u", Some(id)));
                assert!(!may, "{id} {filter:?}");
            }
            assert!(
                !r.permit_topic(
                    Permission::Write,
                    b"amq.topic",
                    (b"dev/a/up", Slash),
                    who("u", Some(id))
                ),
                "{id}"
            );
        }
    }

    /// What a route remembers of one connection holds for the others of its user, unless their client ids matter.
    #[test]
    fn a_route_is_permitted_to_all_who_may_publish_the_same() {
        let mut users = UserRights::default();
        let limited =
            |write: &[&str]| Arc::new(Rights::all().with_topics("amq.topic", slash(write), slash(&["{client_id}"])));
        users.set("u".into(), limited(&["{username}/#", "{vhost}"]));
        users.set("v".into(), limited(&["{username}/#", "{vhost}"]));
        users.set("w".into(), limited(&["a", "x{client_id}"]));
        let permitted = |user: &str| Access::new(user.into(), &users).remember(&users, &published(), None);
        assert_eq!(permitted("u"), permitted("u"));
        assert_ne!(permitted("u"), permitted("v"));
        assert_ne!(permitted("w"), permitted("w"));
        assert_ne!(permitted("nobody"), permitted("nobody"));
        let mut link = Access::new("w".into(), &users);
        let before = link.remember(&users, &published(), None);
        assert!(link.knows(&users, Some((3, before))));
        link.set_client_id(&"c".into());
        assert!(
            !link.knows(&users, Some((3, before))),
            "it may publish something else now"
        );
        assert_ne!(link.remember(&users, &published(), None), before);
    }

    /// A user whose rights the node knew: from now on, each publish is asked outside.
    #[test]
    fn what_was_permitted_is_forgotten_when_somebody_else_is_asked() {
        let mut users = UserRights::default();
        users.set("u".into(), rights().into());
        let mut access = Access::new("u".into(), &users);
        let permitted = access.remember(&users, &published(), Some(3));
        access.begin_asking(&Arc::default());
        users.set("u".into(), Rights::asked().into());
        assert!(access.limits(&users).is_some_and(Rights::are_asked) && access.asking().is_some());
        for permitted in [permitted, Permitted::NOBODY] {
            assert!(!access.knows(&users, Some((3, permitted))));
        }
        assert!(!access.wrote_to(b"amq.topic"));
    }

    #[test]
    fn a_link_forgets_what_it_knows_when_rights_change() {
        let mut users = UserRights::default();
        users.set("u".into(), Rights::all().into());
        let mut access = Access::new("u".into(), &users);
        assert!(access.knows(&users, None), "everything is permitted");
        users.set("u".into(), rights().into());
        let nobody = |route| Some((route, Permitted::NOBODY));
        assert!(!access.knows(&users, nobody(3)));
        assert!(access.limits(&users).is_some());
        let permitted = access.remember(&users, &published(), Some(3));
        assert!(access.knows(&users, nobody(3)) && !access.knows(&users, nobody(3 + ROUTES as u64)));
        assert!(access.knows(&users, Some((4, permitted))) && !access.knows(&users, nobody(4)));
        assert!(!access.knows(&users, None));
        users.set("somebody".into(), Rights::all().into());
        assert!(!access.knows(&users, Some((3, permitted))));
        assert!(access.limits(&users).is_some() && !access.knows(&users, nobody(3)));
        users.set("u".into(), rights().into());
        assert!(access.limits(&users).is_some());
        access.remember(&users, &published(), None);
        assert!(
            !access.knows(&users, Some((4, permitted))),
            "it was permitted with other rights"
        );
        users.remove("u");
        let limits = access.limits(&users).expect("no rights");
        assert!(!limits.permit(Permission::Write, "amq.topic"));
    }
}
