//! SEND: publishes on channel 0. A publish with a receipt is numbered, so that it can be confirmed.

use super::{Handled, State, StompSession};
use crate::destination::Destination;
use crate::error::Refusal;
use crate::frame::Frame;
use crate::frame::send::Send;
use crate::frame::subscribe::{AckMode, QueueHeaders, SubscriptionName};
use crate::message::Opening;
use crate::properties;
use crate::session::subscriptions::{Life, Subscription};
use gatepost_core::command::{Command, Consume, DeclareQueue, PublishFlags};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Name, Table};
use gatepost_core::session::Cx;
use std::collections::{BTreeSet, VecDeque};
use std::mem::size_of;

/// Maximum number of queues whose declaration a connection remembers. Beyond it, the memory is cleared and they are
/// declared again.
const DECLARED_MAX: usize = 4096;

/// Capacity of the scratch buffer kept between frames, in bytes.
const SCRATCH_KEPT_MAX: usize = 16 << 10;

/// The publishing side of a connection.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// Queues that this connection has declared. A SEND to one of these declares nothing.
    pub(super) declared: Declared,
    /// Number of the last publish with a receipt.
    published: u64,
    pub(super) confirms: Confirms,
    /// Properties of the message being built.
    scratch: Vec<u8>,
}

/// A bounded set of queue names.
#[derive(Debug, Default)]
pub(super) struct Declared {
    names: BTreeSet<Box<str>>,
    bytes: usize,
}

impl Declared {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.names.remove(name) {
            self.bytes -= Declared::cost(name);
        }
    }

    fn insert(&mut self, name: &str) {
        if self.names.len() >= DECLARED_MAX {
            *self = Declared::default();
        }
        if self.names.insert(name.into()) {
            self.bytes += Declared::cost(name);
        }
    }

    /// Approximate memory of the names, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    fn cost(name: &str) -> usize {
        name.len() + 2 * size_of::<Box<str>>()
    }
}

/// Receipts that wait for confirms, by the number of the publish.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    owed: VecDeque<(u64, Box<str>)>,
    /// Approximate memory of `owed`, in bytes.
    bytes: usize,
}

impl Confirms {
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Approximate memory, in bytes. It must be bounded: a client chooses how many receipts wait and how long each is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, number: u64, receipt: &str) {
        self.bytes += Confirms::cost(receipt);
        self.owed.push_back((number, receipt.into()));
    }

    /// Takes the first receipt, if its publish has the number `upto` or a lower one.
    pub(super) fn pop_upto(&mut self, upto: u64) -> Option<Box<str>> {
        let first = self.owed.pop_front_if(|(number, _)| *number <= upto);
        self.paid(first)
    }

    /// Takes the receipt of one publish.
    pub(super) fn take(&mut self, number: u64) -> Option<Box<str>> {
        let at = self.owed.iter().position(|(owed, _)| *owed == number)?;
        let taken = self.owed.remove(at);
        self.paid(taken)
    }

    /// Takes the only receipt; `None` if there are more.
    pub(super) fn take_only(&mut self) -> Option<Box<str>> {
        let only = if self.owed.len() == 1 {
            self.owed.pop_front()
        } else {
            None
        };
        self.paid(only)
    }

    fn paid(&mut self, taken: Option<(u64, Box<str>)>) -> Option<Box<str>> {
        let (_, receipt) = taken?;
        self.bytes -= Confirms::cost(&receipt);
        Some(receipt)
    }

    fn cost(receipt: &str) -> usize {
        receipt.len() + size_of::<(u64, Box<str>)>()
    }
}

impl StompSession {
    /// SEND.
    pub(super) fn send(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Result<Handled, Refusal> {
        let user = (!self.impersonates).then_some(&*self.user);
        let send = Send::parse(frame, user, cx.now.wall)?;
        let queue = match &send.destination {
            Destination::Queue(_) if send.declares => QueueHeaders::parse(frame.headers)?,
            _ => QueueHeaders::default(),
        };
        let reply_to = match send.temp_queue {
            None => None,
            Some(text) => match self.temp_queue(cx, text)? {
                Some(name) => Some(name),
                None => {
                    self.state = State::NamingTempQueue;
                    return Ok(Handled::Later);
                }
            },
        };
        let mut raw = std::mem::take(&mut self.publisher.scratch);
        properties::write(frame.headers, reply_to.as_deref(), send.expiration_ms, &mut raw);
        let message = self.message(cx, &send, &raw, frame.body);
        raw.clear();
        raw.shrink_to(SCRATCH_KEPT_MAX);
        self.publisher.scratch = raw;

        let bytes = message.memory() + send.receipt.map_or(0, str::len);
        if let Some(transaction) = send.transaction {
            self.transactions.check(cx, transaction, bytes, &self.settings)?;
        }
        if let Destination::Queue(name) = &send.destination {
            self.declare_for_send(cx, name, queue);
        }
        let mut flags = PublishFlags::default();
        if send.receipt.is_some() && send.transaction.is_none() {
            flags = PublishFlags::CONFIRM;
        }
        let publish = Command::Publish {
            channel: 0,
            flags,
            packet_id: 0,
            message,
        };
        match (send.transaction, send.receipt) {
            (Some(transaction), receipt) => {
                self.transactions.push(transaction, publish, bytes, receipt);
            }
            (None, receipt) => {
                cx.commands.push(publish);
                if let Some(receipt) = receipt {
                    self.publisher.published += 1;
                    self.publisher.confirms.push(self.publisher.published, receipt);
                }
            }
        }
        Ok(Handled::Done)
    }

    fn message(&self, cx: &Cx<'_>, send: &Send<'_>, raw: &[u8], body: &[u8]) -> Message {
        let (exchange, key) = match &send.destination {
            Destination::Queue(name) | Destination::ExistingQueue(name) => ("", &**name),
            Destination::Topic(key) => (&*self.settings.topic_exchange, &**key),
            Destination::Exchange(exchange, key) => (&**exchange, &**key),
            // Cannot occur: `Send::parse` refuses it.
            Destination::TempQueue(name) => ("", *name),
        };
        let envelope = Envelope {
            origin: if raw.is_empty() {
                Default::default()
            } else {
                properties::ORIGIN
            },
            dialect: Dialect::Dot,
            durable: send.durable,
            qos: u8::from(send.durable),
            retain: send.retain && *exchange == *self.settings.topic_exchange,
            extra_keys: false,
            priority: send.priority,
            deadline: send.deadline,
            received: cx.now.wall,
        };
        Message::new(envelope, exchange, key, raw, body)
    }

    /// A SEND creates its queue. An existing queue need only match what the frame itself says.
    fn declare_for_send(&mut self, cx: &mut Cx<'_>, name: &str, queue: QueueHeaders) {
        let given = queue.are_given();
        if !given && self.publisher.declared.contains(name) {
            return;
        }
        self.remember_declared(name);
        cx.commands.push(Command::DeclareQueue(Box::new(DeclareQueue {
            channel: 0,
            name: name.into(),
            passive: false,
            durable: queue.durable.unwrap_or(true),
            exclusive: queue.exclusive.unwrap_or(false),
            auto_delete: queue.auto_delete.unwrap_or(false),
            lenient: !given,
            arguments: queue.arguments,
            reply: false,
        })));
    }

    pub(super) fn remember_declared(&mut self, name: &str) {
        self.publisher.declared.insert(name);
    }

    /// The name of the queue for `reply-to:/temp-queue/…`, which is made once per connection and name. `None` until the
    /// engine has named it.
    fn temp_queue(&mut self, cx: &mut Cx<'_>, text: &str) -> Result<Option<Name>, Refusal> {
        let id = SubscriptionName::Id(text.into());
        if let Some(channel) = self.subscriptions.channel(&id) {
            return match self.subscriptions.on(channel) {
                Some(subscription) if subscription.temporary => {
                    Ok(Some(subscription.queue.clone()).filter(|name| !name.is_empty()))
                }
                _ => Err(Refusal::duplicate_subscription(&id.tag())),
            };
        }
        let (channel, token) = self.next_subscription()?;
        cx.commands.push(Command::DeclareQueue(Box::new(DeclareQueue {
            channel,
            name: "".into(),
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: true,
            lenient: false,
            arguments: Table::default(),
            reply: true,
        })));
        cx.commands.push(Command::Consume(Box::new(Consume {
            channel,
            consumer: token,
            queue: "".into(),
            tag: id.tag().into(),
            no_ack: true,
            exclusive: false,
            priority: 0,
            prefetch: None,
            arguments: Table::default(),
            reply: true,
        })));
        let opening = Opening::new(self.version, Some(text), &self.ack_id_prefix(token), false);
        self.subscriptions.insert(
            channel,
            Subscription {
                name: id,
                token,
                ack: AckMode::Auto,
                life: Life::Opening,
                opening,
                subscribe_receipt: None,
                unsubscribe_receipt: None,
                queue: "".into(),
                durable: false,
                temporary: true,
                delivered: 0,
                settled: 0,
                miscounted: false,
            },
        );
        Ok(None)
    }
}
