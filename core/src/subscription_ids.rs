//! Finds the subscription identifiers of a message read back from the log, which does not store them.
//!
//! A session may have very many subscriptions, and hundreds of messages are read at once. So not every filter is
//! matched with every topic: the filters are sorted by text, and only those are looked up that begin like a filter of
//! this topic can.

use crate::durable_session::Subscriptions;
use crate::message::Dialect;
use crate::queue::entry::{Body, Entry};
use crate::topic::{Levels, Pattern, Spelling};
use std::ops::Bound;
use std::sync::Arc;

/// The identifiers of the session's subscriptions that match an entry of its queue.
pub(crate) fn ids_of(subscriptions: &Subscriptions, entry: &Entry) -> Option<Arc<[u32]>> {
    let Body::Memory(message) = &entry.body else {
        return entry.subscription_ids.clone();
    };
    if entry.subscription_ids.is_some() {
        return entry.subscription_ids.clone();
    }
    let levels = Levels::new(message.key(), message.envelope().dialect);
    let ids = Search::of(subscriptions, &levels).ids;
    (!ids.is_empty()).then(|| ids.into())
}

/// A search for the filters that match a topic. It goes level by level, along each beginning that some filter has.
struct Search<'a, 't> {
    subscriptions: &'a Subscriptions,
    levels: &'a Levels<'t>,
    /// The identifiers found.
    ids: Vec<u32>,
    /// The number of look-ups in the subscriptions.
    look_ups: usize,
}

impl<'a, 't> Search<'a, 't> {
    fn of(subscriptions: &'a Subscriptions, levels: &'a Levels<'t>) -> Search<'a, 't> {
        let mut search = Search {
            subscriptions,
            levels,
            ids: Vec::new(),
            look_ups: 0,
        };
        search.go_on(0, &mut String::new());
        search
    }

    /// `beginning`: the first `at` levels of filters, each followed by its separator.
    fn go_on(&mut self, at: usize, beginning: &mut String) {
        let length = beginning.len();
        beginning.push('#');
        self.note(beginning);
        beginning.truncate(length);
        let Some(level) = self.levels.get(at) else {
            self.note(beginning.strip_suffix(SEPARATOR).unwrap_or(beginning));
            return;
        };
        let mut literal = String::new();
        Spelling::SLASH.write(level, &mut literal);
        for next in [&*literal, "+"] {
            beginning.push_str(next);
            // The number of levels in a filter is limited, and so is this recursion.
            if self.has_beginning(beginning) {
                beginning.push_str(SEPARATOR);
                self.go_on(at + 1, beginning);
            }
            beginning.truncate(length);
        }
    }

    fn has_beginning(&mut self, beginning: &str) -> bool {
        self.look_ups += 1;
        let from = (beginning.into(), None);
        let mut from = self.subscriptions.range((Bound::Included(from), Bound::Unbounded));
        from.next()
            .is_some_and(|((filter, _), _)| filter.starts_with(beginning))
    }

    /// Adds the subscription with that filter, if it exists and matches.
    fn note(&mut self, filter: &str) {
        self.look_ups += 1;
        let id = self.subscriptions.get(&(filter.into(), None));
        let Some(id) = id.and_then(|subscribed| subscribed.subscription_id) else {
            return;
        };
        // Wildcards do not match topics that begin with `$`.
        if Pattern::parse(filter, Dialect::Slash).is_ok_and(|pattern| pattern.matches(self.levels)) {
            self.ids.push(id);
        }
    }
}

/// The separator of filters.
const SEPARATOR: &str = "/";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable_session::Subscribed;
    use crate::properties::Name;

    fn subscribe(filters: impl IntoIterator<Item = String>) -> Subscriptions {
        let numbered = filters.into_iter().zip(1..);
        let options = |id| Subscribed {
            qos: 1,
            no_local: false,
            retain_as_published: false,
            subscription_id: Some(id),
        };
        numbered
            .map(|(filter, id)| ((Name::from(filter), None), options(id)))
            .collect()
    }

    /// All texts of up to three of these levels.
    fn all(words: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        for from in [0, words.len()] {
            let longer: Vec<String> = all[from..]
                .iter()
                .flat_map(|text| words.iter().map(move |word| format!("{text}/{word}")))
                .collect();
            all.extend(longer);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn the_search_finds_what_matching_every_filter_finds() {
        let filters = all(&["", "a", "b", "+", "#", "$x", "a%2Fb", "a%"]).into_iter();
        let filters: Vec<String> = filters
            .filter(|filter| Pattern::parse(filter, Dialect::Slash).is_ok())
            .collect();
        let mut subscriptions = subscribe(filters);
        // The identifier of a group's subscription does not count for the session's own queue.
        let group = (Name::from("a"), Some(Name::from("g")));
        let options = *subscriptions.values().next().expect("there are some");
        subscriptions.insert(group, options);
        let mut found = 0;
        for topic in all(&["", "a", "b", "$x", "a%2Fb", "a%", "c"]) {
            let levels = Levels::new(&topic, Dialect::Slash);
            let matches = |filter: &str| Pattern::parse(filter, Dialect::Slash).is_ok_and(|p| p.matches(&levels));
            let mut expected: Vec<u32> = subscriptions
                .iter()
                .filter(|((filter, share), _)| share.is_none() && matches(filter))
                .filter_map(|(_, subscribed)| subscribed.subscription_id)
                .collect();
            let mut ids = Search::of(&subscriptions, &levels).ids;
            expected.sort_unstable();
            ids.sort_unstable();
            assert_eq!(ids, expected, "{topic}");
            found += ids.len();
        }
        assert!(found > 1_000, "{found}");
    }

    /// Every message read back was matched with every filter: 256 messages of a session with 10,000 subscriptions held
    /// the engine's lock for more than a second.
    #[test]
    fn the_search_looks_at_few_of_many_subscriptions() {
        let subscriptions = subscribe((0..10_000).map(|n| format!("plant/{n}/+/temp")));
        let levels = Levels::new("plant/4711/boiler/temp", Dialect::Slash);
        let search = Search::of(&subscriptions, &levels);
        assert_eq!(search.ids, [4712]);
        assert!(search.look_ups < 20, "{}", search.look_ups);
    }
}
