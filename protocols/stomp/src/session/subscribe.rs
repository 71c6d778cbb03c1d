//! SUBSCRIBE and UNSUBSCRIBE: a queue, a binding if the destination is a topic, and a consumer.

use super::{Handled, StompSession};
use crate::destination::Destination;
use crate::error::Refusal;
use crate::frame::Frame;
use crate::frame::ack::AckId;
use crate::frame::subscribe::{AckMode, QueueHeaders, Subscribe};
use crate::frame::unsubscribe::Unsubscribe;
use crate::message::Opening;
use crate::session::subscriptions::{Life, Subscription};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatepost_core::command::{Bind, BindTarget, Channel, Command, Consume, ConsumerToken, DeclareQueue, DeleteQueue};
use gatepost_core::properties::{Name, Table, Value};
use gatepost_core::session::Cx;
use sha2::{Digest, Sha256};

/// Prefix of the queues of topic subscriptions. It is RabbitMQ's, because permissions are written for it.
const QUEUE_PREFIX: &str = "stomp-subscription-";

impl StompSession {
    /// SUBSCRIBE.
    pub(super) fn subscribe(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Result<Handled, Refusal> {
        let mut subscribe = Subscribe::parse(frame, self.client_id.as_deref())?;
        if self.subscriptions.channel(&subscribe.name).is_some() {
            return Err(Refusal::duplicate_subscription(&subscribe.name.tag()));
        }
        let (channel, token) = self.next_subscription()?;
        let queue = std::mem::take(&mut subscribe.queue);
        let queue: Name = match &subscribe.destination {
            Destination::Queue(name) => {
                self.declare_for_subscribe(cx, channel, name, queue, subscribe.receipt.is_some())
            }
            Destination::ExistingQueue(name) => Name::from(&**name),
            Destination::Topic(key) => {
                let exchange = self.settings.topic_exchange.clone();
                self.bind_own_queue(cx, channel, &subscribe, queue, exchange, key)
            }
            Destination::Exchange(exchange, key) => {
                self.bind_own_queue(cx, channel, &subscribe, queue, Name::from(&**exchange), key)
            }
            // Cannot occur: `Subscribe::parse` refuses it.
            Destination::TempQueue(name) => Name::from(*name),
        };
        let no_ack = subscribe.ack == AckMode::Auto;
        cx.commands.push(Command::Consume(Box::new(Consume {
            channel,
            consumer: token,
            queue: queue.clone(),
            tag: subscribe.name.tag().into(),
            no_ack,
            exclusive: subscribe.exclusive,
            priority: subscribe.priority,
            prefetch: if no_ack {
                None
            } else {
                subscribe.prefetch.or(Some(self.settings.default_prefetch))
            },
            arguments: subscribe.arguments,
            reply: true,
        })));
        let opening = Opening::new(self.version, subscribe.name.id(), &self.ack_id_prefix(token), !no_ack);
        self.subscriptions.insert(
            channel,
            Subscription {
                name: subscribe.name,
                token,
                ack: subscribe.ack,
                life: Life::Opening,
                opening,
                subscribe_receipt: subscribe.receipt.map(Box::from),
                unsubscribe_receipt: None,
                queue,
                durable: subscribe.durable.is_some(),
                temporary: false,
                delivered: 0,
                settled: 0,
                miscounted: false,
            },
        );
        Ok(Handled::Done)
    }

    /// UNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Result<Handled, Refusal> {
        let unsubscribe = Unsubscribe::parse(frame)?;
        let not_found = || Refusal::no_subscription(&unsubscribe.name.description());
        let channel = self.subscriptions.channel(&unsubscribe.name).ok_or_else(not_found)?;
        let subscription = self.subscriptions.on(channel).ok_or_else(not_found)?;
        let delete = subscription.durable && unsubscribe.for_good;
        let (token, queue) = (subscription.token, subscription.queue.clone());
        subscription.life = Life::Cancelling;
        subscription.unsubscribe_receipt = unsubscribe.receipt.map(Box::from);
        // The queue may be deleted with its last consumer, so the next SEND must declare it again.
        self.publisher.declared.remove(&queue);
        self.subscriptions.forget_name(channel);
        // The deletion is sent first and answered first, so the answer to the cancellation means that both are done.
        // The engine then reports that the consumer's queue is gone (`ConsumerGone`), which is ignored after
        // UNSUBSCRIBE.
        if delete {
            let (if_unused, if_empty) = (false, false);
            let delete = DeleteQueue {
                channel,
                name: queue,
                if_unused,
                if_empty,
                reply: unsubscribe.receipt.is_some(),
            };
            cx.commands.push(Command::DeleteQueue(Box::new(delete)));
        }
        cx.commands.push(Command::Cancel {
            channel,
            consumer: token,
            reply: true,
        });
        Ok(Handled::Done)
    }

    /// A channel and a consumer token for one more subscription.
    pub(super) fn next_subscription(&self) -> Result<(Channel, ConsumerToken), Refusal> {
        let limit = self.settings.subscriptions_max;
        self.subscriptions
            .next(limit)
            .ok_or_else(|| Refusal::too_many_subscriptions(limit))
    }

    /// The part of a subscription's ack ids before the delivery's number.
    pub(super) fn ack_id_prefix(&self, token: ConsumerToken) -> Vec<u8> {
        let mut prefix = Vec::new();
        AckId::push_prefix(&mut prefix, &self.nonce, token);
        prefix
    }

    /// Declares `/queue/N` to consume from. An existing queue need only match what the frame says. With `reply`, the
    /// answer waits for the log if the queue is durable, and all later answers of the channel wait behind it, the
    /// receipt included.
    fn declare_for_subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        channel: Channel,
        name: &str,
        queue: QueueHeaders,
        reply: bool,
    ) -> Name {
        let lenient = !queue.are_given();
        let name = Name::from(name);
        self.remember_declared(&name);
        cx.commands.push(Command::DeclareQueue(Box::new(DeclareQueue {
            channel,
            name: name.clone(),
            passive: false,
            durable: queue.durable.unwrap_or(true),
            exclusive: queue.exclusive.unwrap_or(false),
            auto_delete: queue.auto_delete.unwrap_or(false),
            lenient,
            arguments: queue.arguments,
            reply,
        })));
        name
    }

    /// Makes a queue for this subscription alone and binds it to `exchange`. The queue is named here, not by the
    /// engine: binding a queue without a name with an empty key would mean another key.
    fn bind_own_queue(
        &mut self,
        cx: &mut Cx<'_>,
        channel: Channel,
        subscribe: &Subscribe<'_>,
        queue: QueueHeaders,
        exchange: Name,
        key: &str,
    ) -> Name {
        let durable = subscribe.durable.is_some();
        let name: Name = match (queue.name, &subscribe.durable) {
            (Some(name), _) => name.into(),
            (None, Some(id)) => durable_queue(&self.user, subscribe.destination_text, id),
            (None, None) => random_queue(cx),
        };
        cx.commands.push(Command::DeclareQueue(Box::new(DeclareQueue {
            channel,
            name: name.clone(),
            passive: false,
            durable,
            exclusive: queue.exclusive.unwrap_or(!durable),
            auto_delete: queue.auto_delete.unwrap_or(!durable),
            lenient: false,
            arguments: queue.arguments,
            reply: subscribe.receipt.is_some(),
        })));
        let mut arguments = Table::default();
        if subscribe.retained {
            arguments.push("x-retained", Value::Bool(true));
        }
        cx.commands.push(Command::Bind(Box::new(Bind {
            channel,
            source: exchange,
            target: BindTarget::Queue(name.clone()),
            key: key.into(),
            arguments,
            reply: subscribe.receipt.is_some(),
        })));
        name
    }
}

/// The queue of a durable subscription: the same for the same user, destination and id, on every connection. Unlike in
/// RabbitMQ, users do not share it.
fn durable_queue(user: &str, destination: &str, id: &str) -> Name {
    let mut hash = Sha256::new();
    for part in [user, destination, id] {
        // Lengths are hashed too, so that no two different triples give the same input.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    format!(
        "{QUEUE_PREFIX}{}",
        URL_SAFE_NO_PAD.encode(digest.get(..16).unwrap_or_default())
    )
    .into()
}

fn random_queue(cx: &mut Cx<'_>) -> Name {
    let octets = [(cx.random)(), (cx.random)()].map(u64::to_be_bytes).concat();
    format!("{QUEUE_PREFIX}{}", URL_SAFE_NO_PAD.encode(octets)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After an upgrade, the queues of durable subscriptions are found by this name.
    #[test]
    fn the_name_of_a_durable_queue_never_changes() {
        let name = durable_queue("guest", "/topic/a", "1");
        assert_eq!(&*name, "stomp-subscription-v1Ll26CbwnHtR0a48cBKlA");
        assert_ne!(name, durable_queue("guest", "/topic/a1", ""));
        assert_ne!(name, durable_queue("other", "/topic/a", "1"));
    }
}
