//! What is published to each exchange, for those who list exchanges.
//!
//! A publish counts for the exchange that it names: exchanges that only others lead to are not counted, as in RabbitMQ. Which
//! exchange that is comes with the route, so a message costs two additions and no look-up.

use super::{ExchangeCounts, Router};

/// The exchange that a message names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Named {
    /// The default one.
    #[default]
    Default,
    /// The one with that number.
    Known(u32),
    /// One that is gone by now.
    Gone,
}

impl Router {
    /// What the exchange of that name has done.
    pub(crate) fn exchange_counts(&self, name: &str) -> Option<ExchangeCounts> {
        if name.is_empty() {
            return Some(self.default_counts);
        }
        self.find_exchange(name).map(|id| self.exchanges[id as usize].counts)
    }

    /// Takes note of the exchange of a message whose queues were found before.
    pub(crate) fn name_exchange(&mut self, name: &str) {
        self.named = match self.find_exchange(name) {
            _ if name.is_empty() => Named::Default,
            Some(id) => Named::Known(id),
            None => Named::Gone,
        };
    }

    /// Counts the message that was routed last, or whose exchange was named since: so many queues took it.
    #[inline]
    pub(crate) fn count_publish(&mut self, queues: usize) {
        let counts = match self.named {
            Named::Default => Some(&mut self.default_counts),
            Named::Known(id) => self.exchanges.get_mut(id as usize).map(|exchange| &mut exchange.counts),
            Named::Gone => None,
        };
        if let Some(counts) = counts {
            counts.published_in += 1;
            counts.published_out += queues as u64;
        }
    }
}
