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
mod rights;
mod rules;
mod topics;

pub use asking::{Asked, Question, Subject};
pub(crate) use asking::{Asking, Sought, Verdict};
pub use names::{InvalidNamePattern, NamePattern, PATTERN_BYTES_MAX};
pub use rights::Rights;
pub(crate) use rights::{Permitted, UserRights};
pub use topics::TopicPattern;
pub(crate) use topics::Who;

use crate::ledger::{Ledger, ObjectKind};
use crate::message::Message;
use crate::properties::Name;
use crate::time::Time;
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
mod tests;
