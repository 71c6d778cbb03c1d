//! Exchanges, and the tables that find the bindings for a message. One file per type.
//!
//! Bindings are numbers here ([`BindingId`]); the router knows what they lead to.

mod bits;
mod direct;
mod fanout;
mod headers;
mod topic;

pub(crate) use headers::{MessageHeaders, binding_bytes as headers_binding_bytes};

use crate::binding::Binding;
use crate::fault::{Fault, FaultKind};
use crate::message::{Dialect, Message};
use crate::policy::Applied;
use crate::properties::{Codecs, Name, Table};
use crate::topic::{Levels, Pattern, Walk, first_literal, is_broker_topic, translate};
use headers::Search;

use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The router's number for a binding. Reused.
pub(crate) type BindingId = u32;

/// One exchange.
pub(crate) struct Exchange {
    pub(crate) name: Name,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: Table,
    /// The alternate exchange: as declared, otherwise from the policy.
    pub(crate) alternate: Option<Name>,
    /// The policies that apply.
    pub(crate) policy: Option<Arc<Applied>>,
    pub(crate) table: BindingTable,
    /// Bindings with it as source: exactly those in `table`.
    pub(crate) outgoing: BTreeSet<BindingId>,
    /// Bindings with it as destination.
    pub(crate) incoming: BTreeSet<BindingId>,
    /// Its memory without its bindings.
    pub(crate) bytes: usize,
    /// It is being deleted, which may take several holds. Further bindings are refused.
    pub(crate) ending: bool,
    /// Distinguishes it from an earlier exchange of the same number, at which a routing may have paused.
    pub(crate) serial: u64,
    /// Counters since the start of the process.
    pub(crate) counts: ExchangeCounts,
}

/// Counters of an exchange since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeCounts {
    /// Messages published to it.
    pub published_in: u64,
    /// Copies of them that queues took.
    pub published_out: u64,
}

/// The bindings of an exchange, indexed for its type.
pub(crate) enum BindingTable {
    /// By equal keys.
    Direct(direct::Direct),
    /// All of them.
    Fanout(fanout::Fanout),
    /// By pattern.
    Topic(topic::Topic),
    /// By headers.
    Headers(headers::Headers),
}

/// The part of an exchange that a route depends on, or that a change of a binding affects. Changes of one part leave routes
/// through other parts valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// Any message.
    Whole,
    /// Messages with this key, or this first level of it.
    Part(&'a str),
}

/// The message that is being routed, with views of it that some types need, made on first use.
pub(crate) struct Subject<'a> {
    pub(crate) keys: SmallVec<[RoutingKey<'a>; 1]>,
    message: &'a Message,
    codecs: &'a Codecs,
    /// Kept between holds, because decoding them again would be most of the work.
    pub(crate) headers: Option<MessageHeaders>,
    headers_max: usize,
}

/// The progress of the search for a message's bindings in one exchange.
#[derive(Default)]
pub(crate) struct Progress {
    /// Number of the message's keys that are done.
    key: usize,
    cursor: Option<BindingId>,
    topic: Walk,
    headers: Search,
}

impl Progress {
    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        self.headers.memory()
    }
}

impl<'a> Subject<'a> {
    pub(crate) fn new(
        message: &'a Message,
        extra_keys: &'a [Name],
        codecs: &'a Codecs,
        headers_max: usize,
    ) -> Subject<'a> {
        let mut keys = smallvec![RoutingKey::new(message.key(), message.envelope().dialect)];
        keys.extend(extra_keys.iter().map(|key| RoutingKey::new(key, Dialect::Dot)));
        Subject {
            keys,
            message,
            codecs,
            headers: None,
            headers_max,
        }
    }
    fn headers(&mut self) -> Result<&MessageHeaders, Fault> {
        if self.headers.is_none() {
            let table = self.message.properties(self.codecs).headers;
            let (count, max) = (table.0.len(), self.headers_max);
            if count > max {
                let text = format!("message has {count} headers, more than a headers exchange takes ({max})");
                return Err(Fault::new(FaultKind::PreconditionFailed, text));
            }
            self.headers = Some(MessageHeaders::new(table));
        }
        Ok(self
            .headers
            .get_or_insert_with(|| MessageHeaders::new(Table::default())))
    }
}

/// A routing key with views that are made on first use.
pub(crate) struct RoutingKey<'a> {
    text: &'a str,
    dialect: Dialect,
    dotted: Option<Cow<'a, str>>,
    levels: Option<Levels<'a>>,
}

impl<'a> RoutingKey<'a> {
    fn new(text: &'a str, dialect: Dialect) -> RoutingKey<'a> {
        RoutingKey {
            text,
            dialect,
            dotted: None,
            levels: None,
        }
    }
    /// The key in the dot dialect, in which it is compared with queue names and with the keys of exchanges without levels.
    pub(crate) fn dotted(&mut self) -> &str {
        self.dotted.get_or_insert_with(|| dotted(self.text, self.dialect))
    }
    fn levels(&mut self) -> &Levels<'a> {
        self.levels.get_or_insert_with(|| Levels::new(self.text, self.dialect))
    }
}

/// Respells `key` in the dot dialect.
fn dotted(key: &str, dialect: Dialect) -> Cow<'_, str> {
    // The dot dialect can express every key, unless escapes make it too long; then it equals no key.
    translate(key, dialect, Dialect::Dot).unwrap_or(Cow::Borrowed(key))
}

impl BindingTable {
    /// An empty table for an exchange type; `None` if there is no such type.
    pub(crate) fn new(kind: &str) -> Option<BindingTable> {
        match kind {
            "direct" => Some(BindingTable::Direct(direct::Direct::default())),
            "fanout" => Some(BindingTable::Fanout(fanout::Fanout::default())),
            "topic" => Some(BindingTable::Topic(topic::Topic::default())),
            "headers" => Some(BindingTable::Headers(headers::Headers::default())),
            _ => None,
        }
    }

    /// The type's name.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            BindingTable::Direct(_) => "direct",
            BindingTable::Fanout(_) => "fanout",
            BindingTable::Topic(_) => "topic",
            BindingTable::Headers(_) => "headers",
        }
    }

    /// Checks the requirements of this exchange type on a binding.
    pub(crate) fn check(&self, arguments: &Table) -> Result<(), Fault> {
        match self {
            BindingTable::Headers(_) => headers::check_arguments(arguments),
            BindingTable::Direct(_) | BindingTable::Fanout(_) | BindingTable::Topic(_) => Ok(()),
        }
    }

    /// Adds a binding; its arguments were checked.
    pub(crate) fn insert(&mut self, id: BindingId, binding: &Binding) {
        match self {
            BindingTable::Direct(table) => table.insert(&dotted(&binding.key, binding.dialect), id),
            BindingTable::Fanout(table) => table.insert(id),
            BindingTable::Topic(table) => {
                if let Some(pattern) = pattern(binding) {
                    table.insert(&pattern, id);
                }
            }
            BindingTable::Headers(table) => table.insert(&binding.arguments, id),
        }
    }

    /// Removes a binding.
    pub(crate) fn remove(&mut self, id: BindingId, binding: &Binding) {
        match self {
            BindingTable::Direct(table) => table.remove(&dotted(&binding.key, binding.dialect), id),
            BindingTable::Fanout(table) => table.remove(id),
            BindingTable::Topic(table) => {
                if let Some(pattern) = pattern(binding) {
                    table.remove(&pattern, id);
                }
            }
            BindingTable::Headers(table) => table.remove(id),
        }
    }

    /// Memory that bindings share, in addition to the cost of each: nodes of a trie.
    pub(crate) fn memory(&self) -> usize {
        match self {
            BindingTable::Topic(table) => table.memory(),
            BindingTable::Direct(_) | BindingTable::Fanout(_) | BindingTable::Headers(_) => 0,
        }
    }

    /// Calls `then` with the scope of routes that `binding` may affect.
    pub(crate) fn with_scope_of(&self, binding: &Binding, then: impl FnOnce(Scope<'_>)) {
        match self {
            BindingTable::Direct(_) => then(Scope::Part(&dotted(&binding.key, binding.dialect))),
            BindingTable::Topic(_) => match first_literal(&binding.key, binding.dialect) {
                Some(first) => then(Scope::Part(&first)),
                None => then(Scope::Whole),
            },
            BindingTable::Fanout(_) | BindingTable::Headers(_) => then(Scope::Whole),
        }
    }

    /// The part of the table in which a key is looked up.
    pub(crate) fn scope_of_key<'k>(&self, key: &'k mut RoutingKey<'_>) -> Scope<'k> {
        match self {
            BindingTable::Direct(_) => Scope::Part(key.dotted()),
            BindingTable::Topic(_) => key.levels().get(0).map_or(Scope::Whole, Scope::Part),
            BindingTable::Fanout(_) | BindingTable::Headers(_) => Scope::Whole,
        }
    }

    /// Continues the search for matching bindings and appends them. A binding may be found more than once. Returns
    /// whether there may be more.
    ///
    /// # Errors
    /// PreconditionFailed if the message has more headers than a headers exchange accepts.
    pub(crate) fn matches(
        &self,
        subject: &mut Subject<'_>,
        progress: &mut Progress,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> Result<bool, Fault> {
        match self {
            BindingTable::Fanout(table) => return Ok(table.matches(&mut progress.cursor, steps, found)),
            BindingTable::Headers(table) => {
                return Ok(table.matches(subject.headers()?, &mut progress.headers, steps, found));
            }
            BindingTable::Direct(_) | BindingTable::Topic(_) => {}
        }
        while let Some(key) = subject.keys.get_mut(progress.key) {
            if *steps == 0 {
                return Ok(true);
            }
            *steps -= 1;
            let more = match self {
                BindingTable::Direct(table) => table.matches(key.dotted(), &mut progress.cursor, steps, found),
                BindingTable::Topic(table) => {
                    let of_broker = is_broker_topic(key.text, key.dialect);
                    progress.topic.skip_leading_wildcards(of_broker);
                    table.matches(key.levels(), &mut progress.topic, steps, found)
                }
                BindingTable::Fanout(_) | BindingTable::Headers(_) => false,
            };
            if more {
                return Ok(true);
            }
            progress.key += 1;
            progress.cursor = None;
            progress.topic = Walk::default();
        }
        Ok(false)
    }
}

/// The pattern of a topic binding. Never `None`, because the router refuses invalid filters.
fn pattern(binding: &Binding) -> Option<Pattern> {
    Pattern::parse(&binding.key, binding.dialect).ok()
}
