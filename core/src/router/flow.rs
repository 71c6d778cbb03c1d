//! Counts messages on each remembered route, for the flow map.

use super::Router;
use super::path::Hop;
use super::route::KnownRoute;
use crate::message::{Dialect, Message};
use crate::properties::Name;
use crate::tally::{Mark, Source, Tally};
use crate::topic::translate;

/// What a remembered route has counted since the flow map last asked.
pub(crate) struct RouteTally {
    pub(crate) source: Source,
    pub(crate) exchange: Name,
    /// The topic in the slash dialect, whatever the publisher speaks. `None`: the map shows the exchange as a whole.
    pub(crate) topic: Option<Name>,
    pub(crate) tally: Tally,
    /// Where its exchange passes messages on to, up to the number of queues asked for.
    pub(crate) to: Vec<Hop>,
    /// Further exchanges on the way, and where they pass messages on to.
    pub(crate) further: Vec<(Name, Vec<Hop>)>,
    /// The number of further queues.
    pub(crate) more: usize,
}

impl Router {
    /// Makes the flow map show the topics of this exchange one by one. Other exchanges are shown as a whole.
    pub(crate) fn set_topics_of(&mut self, exchange: Name) {
        self.topics_of = exchange;
    }

    /// The source that the flow map shows for a message.
    pub(crate) fn source_of(&self, message: &Message) -> Source {
        if *message.exchange() == *self.topics_of {
            Source::topic(message.route_hash())
        } else {
            Source::exchange(message.exchange())
        }
    }

    /// Counts a message on a remembered route. Returns its source.
    #[inline]
    pub(crate) fn note(&mut self, known: KnownRoute, bytes: usize) -> Source {
        self.cache.note(known.index, bytes)
    }

    /// What traces noted about the address of a remembered route.
    #[inline]
    pub(crate) fn mark(&self, known: KnownRoute) -> Mark {
        self.cache.mark(known.index)
    }

    /// Sets what traces note about the address of a remembered route.
    pub(crate) fn set_mark(&mut self, known: KnownRoute, mark: Mark) {
        self.cache.set_mark(known.index, mark);
    }

    /// The end of the range of places for [`Router::take_tally`].
    pub(crate) fn tally_places(&self) -> usize {
        self.cache.places()
    }

    /// What the remembered route at `place` has counted since the last call, with at most `queues_max` of its queues.
    pub(crate) fn take_tally(&mut self, place: usize, queues_max: usize) -> Option<RouteTally> {
        let found = self.cache.take_tally(place)?;
        let exchange = str::from_utf8(found.exchange).unwrap_or_default();
        // Reuse the exchange's own name instead of allocating another.
        let known = self.exchange_names.get_key_value(exchange);
        let exchange = known.map_or_else(|| exchange.into(), |(name, _)| name.clone());
        let is_topic = *exchange == *self.topics_of;
        let more = found.targets.len().saturating_sub(queues_max);
        let (mut to, mut further) = (Vec::new(), Vec::new());
        match found.path {
            None => to.extend(found.targets.iter().take(queues_max).map(|t| Hop::Queue(t.queue))),
            Some(path) => {
                for from in path.chunk_by(|a, b| a.0 == b.0) {
                    let hops = from.iter().map(|(_, hop)| hop.clone()).collect();
                    match from.first() {
                        Some((name, _)) if *name == exchange => to = hops,
                        Some((name, _)) => further.push((name.clone(), hops)),
                        None => {}
                    }
                }
            }
        }
        Some(RouteTally {
            source: found.source,
            topic: is_topic.then(|| shown(found.key, found.dialect)),
            exchange,
            tally: found.tally,
            to,
            further,
            more,
        })
    }

    /// The topic that this source stands for, if it is still remembered.
    pub(crate) fn topic_of(&self, source: Source) -> Option<Name> {
        let (_, key, dialect) = self.cache.address_of(source)?;
        Some(shown(key, dialect))
    }
}

/// The topic as the flow map shows it: in MQTT's spelling, so that all protocols share one name. A key that MQTT cannot
/// express is shown as it is.
fn shown(key: &[u8], dialect: Dialect) -> Name {
    let key = str::from_utf8(key).unwrap_or_default();
    translate(key, dialect, Dialect::Slash).map_or_else(|| key.into(), |topic| (*topic).into())
}
