//! The subscriptions of a connection, each on a channel of its own.
//!
//! ```text
//!            SUBSCRIBE            Consuming           UNSUBSCRIBE              Done(Cancel)
//!   (free) ───────────► Opening ────────────► Active ─────────────► Cancelling ─────────────► Cancelled
//!      ▲                                        └───────────ConsumerGone──────────────────────────▲ │
//!      └──────────Done(CloseChannel)────────── Closing ◄──────────nothing unsettled is left─────────┘
//! ```

use crate::frame::subscribe::{AckMode, SubscriptionName};
use crate::message::Opening;
use gatepost_core::command::{Channel, ConsumerToken};
use gatepost_core::properties::Name;
use std::collections::BTreeMap;

/// The state of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// The engine has not answered yet.
    Opening,
    /// Messages are delivered.
    Active,
    /// UNSUBSCRIBE was passed on; deliveries may still arrive.
    Cancelling,
    /// No more deliveries. Unsettled ones may still be settled, as in RabbitMQ.
    Cancelled,
    /// Its channel is being closed.
    Closing,
}

/// A subscription and its channel.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) name: SubscriptionName,
    pub(super) token: ConsumerToken,
    pub(super) ack: AckMode,
    pub(super) life: Life,
    pub(super) opening: Opening,
    /// Sent when the consumer exists.
    pub(super) subscribe_receipt: Option<Box<str>>,
    /// Sent when the consumer is gone, and its queue too if the subscription is deleted for good.
    pub(super) unsubscribe_receipt: Option<Box<str>>,
    /// The queue consumed from; empty for a temporary queue that the engine has not named yet.
    pub(super) queue: Name,
    /// A durable topic subscription: its queue outlives it, unless it is deleted for good.
    pub(super) durable: bool,
    /// The queue of a `reply-to:/temp-queue/…`.
    pub(super) temporary: bool,
    /// Highest delivery number so far; numbers begin at 1 and have no gaps.
    pub(super) delivered: u64,
    /// How many of them the client has settled (with [`AckMode::Client`]: up to which number).
    pub(super) settled: u64,
    /// The engine refused a settlement, so `settled` may be wrong.
    pub(super) miscounted: bool,
}

impl Subscription {
    /// Records a settlement that was passed on.
    pub(super) fn settle(&mut self, number: u64) {
        self.settled = if self.ack == AckMode::Client {
            self.settled.max(number)
        } else {
            self.settled + 1
        };
    }

    /// Approximate memory in bytes. Its name counts more than once: it is a key, and part of `opening`.
    fn memory(&self) -> usize {
        size_of::<Subscription>() + 3 * self.name.text().len()
    }

    /// Whether its channel can be closed.
    pub(super) fn is_finished(&self) -> bool {
        let settled = self.ack == AckMode::Auto || (self.settled >= self.delivered && !self.miscounted);
        self.life == Life::Cancelled && settled
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// How often the slot was used before. It is part of the token, so old ack ids match nothing.
    generation: u16,
    subscription: Option<Box<Subscription>>,
}

/// All subscriptions of a connection.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Index `n` is channel `n + 1`; channel 0 publishes.
    slots: Vec<Slot>,
    free: Vec<Channel>,
    /// Subscriptions that are not cancelled.
    by_name: BTreeMap<SubscriptionName, Channel>,
    /// Approximate memory of the subscriptions, in bytes.
    bytes: usize,
}

impl Subscriptions {
    /// The next free channel, and the token of a subscription on it; `None` if there are `max` already. It is taken by
    /// [`Subscriptions::insert`].
    pub(super) fn next(&self, max: usize) -> Option<(Channel, ConsumerToken)> {
        if self.slots.len() - self.free.len() >= max {
            return None;
        }
        let channel = match self.free.last() {
            Some(channel) => *channel,
            None => Channel::try_from(self.slots.len() + 1).ok()?,
        };
        let generation = self
            .slots
            .get(usize::from(channel) - 1)
            .map_or(0, |slot| slot.generation);
        Some((
            channel,
            ConsumerToken::from(generation) << 16 | ConsumerToken::from(channel),
        ))
    }

    /// Puts a subscription on the channel that [`Subscriptions::next`] returned.
    pub(super) fn insert(&mut self, channel: Channel, subscription: Subscription) {
        let index = usize::from(channel) - 1;
        if index == self.slots.len() {
            self.slots.push(Slot::default());
        } else {
            let freed = self.free.pop();
            debug_assert_eq!(freed, Some(channel));
        }
        self.bytes += subscription.memory();
        self.by_name.insert(subscription.name.clone(), channel);
        if let Some(slot) = self.slots.get_mut(index) {
            debug_assert!(slot.subscription.is_none());
            slot.subscription = Some(Box::new(subscription));
        }
    }

    /// The subscription on a channel.
    pub(super) fn on(&mut self, channel: Channel) -> Option<&mut Subscription> {
        let index = usize::from(channel).checked_sub(1)?;
        self.slots.get_mut(index)?.subscription.as_deref_mut()
    }

    /// The subscription with this consumer token, and its channel.
    pub(super) fn of(&mut self, token: ConsumerToken) -> Option<(Channel, &mut Subscription)> {
        let channel = (token & 0xffff) as Channel;
        self.on(channel)
            .filter(|subscription| subscription.token == token)
            .map(|subscription| (channel, subscription))
    }

    /// The channel of the subscription with this name.
    pub(super) fn channel(&self, name: &SubscriptionName) -> Option<Channel> {
        self.by_name.get(name).copied()
    }

    /// Frees the subscription's name. If a newer subscription has taken the name, that one keeps it.
    pub(super) fn forget_name(&mut self, channel: Channel) {
        if let Some(name) = self.on(channel).map(|subscription| subscription.name.clone())
            && self.by_name.get(&name) == Some(&channel)
        {
            self.by_name.remove(&name);
        }
    }

    /// Frees a closed channel. Its old ack ids match nothing from now on.
    pub(super) fn free(&mut self, channel: Channel) {
        self.forget_name(channel);
        let slot = usize::from(channel)
            .checked_sub(1)
            .and_then(|index| self.slots.get_mut(index));
        if let Some(slot) = slot
            && let Some(subscription) = slot.subscription.take()
        {
            self.bytes -= subscription.memory();
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(channel);
        }
    }

    /// Approximate memory in bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    /// Whether the client still waits for a receipt of a SUBSCRIBE or UNSUBSCRIBE.
    pub(super) fn await_receipts(&self) -> bool {
        self.slots
            .iter()
            .filter_map(|slot| slot.subscription.as_deref())
            .any(|s| s.subscribe_receipt.is_some() || s.unsubscribe_receipt.is_some())
    }
}
