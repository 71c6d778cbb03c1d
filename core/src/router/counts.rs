//! Counts what is published to each exchange.
//!
//! A publish counts for the exchange that the message names. As in RabbitMQ, it does not count for exchanges that it
//! reaches through bindings. The route knows its first exchange, so a message costs two additions and no look-up.

use super::{ExchangeCounts, Router};

/// The exchange that a message names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Named {
    /// The default exchange.
    #[default]
    Default,
    /// The exchange with that number.
    Known(u32),
    /// An exchange that no longer exists.
    Gone,
}

impl Router {
    /// The counts of the exchange with that name.
    pub(crate) fn exchange_counts(&self, name: &str) -> Option<ExchangeCounts> {
        if name.is_empty() {
            return Some(self.default_counts);
        }
        self.find_exchange(name).map(|id| self.exchanges[id as usize].counts)
    }

    /// Sets the exchange that [`Router::count_publish`] counts for, where the message's queues are known without
    /// routing it now.
    pub(crate) fn name_exchange(&mut self, name: &str) {
        self.forget_path();
        self.named = match self.find_exchange(name) {
            _ if name.is_empty() => Named::Default,
            Some(id) => Named::Known(id),
            None => Named::Gone,
        };
    }

    /// Counts one message for the exchange set by the last routing or by [`Router::name_exchange`]. `queues`: how many
    /// took it.
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
