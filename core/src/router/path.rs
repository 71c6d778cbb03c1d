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
