//! What messages take which remembered route, for the flow map.

use super::Router;
use super::route::KnownRoute;
use crate::binding::QueueSlot;
use crate::message::{Dialect, Message};
use crate::properties::Name;
use crate::tally::{Mark, Source, Tally};
use crate::topic::translate;

/// A remembered route that had messages since it was last asked.
pub(crate) struct RouteTally {
    pub(crate) source: Source,
    pub(crate) exchange: Name,
    /// In the slash dialect, whatever the publisher speaks; `None`: the map shows the exchange as a whole.
    pub(crate) topic: Option<Name>,
    pub(crate) tally: Tally,
    /// Where it leads, as far as it is listed.
    pub(crate) queues: Vec<QueueSlot>,
    /// Further queues.
    pub(crate) more: usize,
}

impl Router {
    /// Has the flow map show the topics of an exchange one by one. Of others it shows the exchange.
    pub(crate) fn set_topics_of(&mut self, exchange: Name) {
        self.topics_of = exchange;
    }

    /// Where the flow map says that a message comes from.
    pub(super) fn source_of(&self, message: &Message) -> Source {
        if *message.exchange() == *self.topics_of {
            Source::topic(message.route_hash())
        } else {
            Source::exchange(message.exchange())
        }
    }

    /// Counts a message along a remembered route.
    #[inline]
    pub(crate) fn note(&mut self, known: KnownRoute, bytes: usize) -> Source {
        self.cache.note(known.index, bytes)
    }

    /// What traces have noted of the address of a remembered route.
    #[inline]
    pub(crate) fn mark(&self, known: KnownRoute) -> Mark {
        self.cache.mark(known.index)
    }

    /// Has that remembered with the route.
    pub(crate) fn set_mark(&mut self, known: KnownRoute, mark: Mark) {
        self.cache.set_mark(known.index, mark);
    }

    /// How many places there are for [`Router::take_tally`].
    pub(crate) fn tally_places(&self) -> usize {
        self.cache.places()
    }

    /// What the remembered route at `place` has counted since it was last asked, and at most `queues_max` of its queues.
    pub(crate) fn take_tally(&mut self, place: usize, queues_max: usize) -> Option<RouteTally> {
        let found = self.cache.take_tally(place)?;
        let exchange = str::from_utf8(found.exchange).unwrap_or_default();
        // The name that the exchange has already, where there is one.
        let known = self.exchange_names.get_key_value(exchange);
        let exchange = known.map_or_else(|| exchange.into(), |(name, _)| name.clone());
        let is_topic = *exchange == *self.topics_of;
        let targets = found.targets;
        Some(RouteTally {
            source: found.source,
            topic: is_topic.then(|| shown(found.key, found.dialect)),
            exchange,
            tally: found.tally,
            queues: targets.iter().take(queues_max).map(|target| target.queue).collect(),
            more: targets.len().saturating_sub(queues_max),
        })
    }

    /// The topic with that number, if it is remembered.
    pub(crate) fn topic_of(&self, source: Source) -> Option<Name> {
        let (_, key, dialect) = self.cache.address_of(source)?;
        Some(shown(key, dialect))
    }
}

/// A topic as the flow map shows it: one name for all protocols. What MQTT has no name for keeps its own.
fn shown(key: &[u8], dialect: Dialect) -> Name {
    let key = str::from_utf8(key).unwrap_or_default();
    translate(key, dialect, Dialect::Slash).map_or_else(|| key.into(), |topic| (*topic).into())
}
