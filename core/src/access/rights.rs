//! The rights of a user, and of all users of a vhost.

use super::Permission;
use super::names::NamePattern;
use super::rules::Rules;
use super::topics::{TopicPattern, Who};
use crate::message::Dialect;
use crate::properties::Name;
use crate::quota::Quota;
use crate::topic::Pattern;
use hashbrown::HashMap;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

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
    /// An external server knows the rights.
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

    /// Whether the right to publish depends on the client id.
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

/// A number for all connections with the same rights to publish: those of one user, or a single one if its client id
/// matters. When rights change, the number changes. Numbers are never reused, so a route can remember who was last
/// permitted to use it.
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
    pub(super) generation: u64,
    /// Some users log in by tokens or an HTTP server. A user without rights may get them again, so its sessions are
    /// kept.
    pub(crate) come_and_go: bool,
    /// See [`Permitted`].
    last_number: Cell<u64>,
}

/// The entry of one user.
struct Granted {
    rights: Arc<Rights>,
    /// `None`: each of its connections has a number of its own.
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
    /// The number that a route remembers when one of the user's connections was permitted.
    pub(super) fn permitted(&self, user: &str) -> Permitted {
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
