//! The way of a message that passes more than one exchange.

use crate::binding::QueueSlot;
use crate::properties::Name;

/// Where an exchange passes a message on to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Hop {
    Exchange(Name),
    Queue(QueueSlot),
}

/// Which exchange passes the message on to what. Sorted, so the hops of one exchange lie together.
pub(crate) type Path = Box<[(Name, Hop)]>;

/// Which exchange passes a message on to which, nearest first. The message was published to `first`.
pub(crate) fn passes(path: &[(Name, Hop)], first: &str) -> Vec<(Name, Name)> {
    let mut passes = Vec::new();
    let mut reached = vec![first];
    let mut next = 0;
    while let Some(&from) = reached.get(next) {
        next += 1;
        for (source, hop) in path.iter().filter(|(source, _)| **source == *from) {
            if let Hop::Exchange(to) = hop {
                passes.push((source.clone(), to.clone()));
                if !reached.contains(&&**to) {
                    reached.push(to);
                }
            }
        }
    }
    passes
}

/// The exchange that passes a message on to the queue. `None`: the path does not say.
pub(crate) fn source_of_queue(path: &[(Name, Hop)], queue: QueueSlot) -> Option<Name> {
    let mut found = path.iter().filter(|(_, hop)| *hop == Hop::Queue(queue));
    found.next().map(|(source, _)| source.clone())
}
