//! Answers, confirms and notices of the engine, written as AMQP frames.

use super::channel::{Channel, Phase};
use super::deferred::Deferred;
use super::env::Env;
use crate::error::Error;
use crate::frame::{Basic, Exchange, Queue, Tx};
use crate::map::{self, REPLY_TO};
use gatepost_core::event::{Event, Op};

impl Channel {
    /// Handles an event for this channel, which is open or being closed by its client.
    pub(super) fn event(&mut self, env: &mut Env<'_, '_>, event: Event) -> Result<(), Error> {
        let channel = env.number;
        match event {
            // Closing the channel requeues its unsettled deliveries, this one included.
            Event::Deliver(_) if self.phase == Phase::Closing => {}
            Event::Deliver(delivery) => self.deliver(env, &delivery),
            Event::Confirmed { upto, .. } => self.confirm(env, upto),
            Event::Refused { number, .. } => {
                if number > self.confirmed
                    && let Err(at) = self.refused.binary_search(&number)
                {
                    self.refused.insert(at, number);
                }
            }
            Event::Returned { message, .. } => self.returned(env, &message),
            Event::Done { op, consumer, .. } => self.done(env, op, consumer),
            Event::Failed { op, fault, .. } => return Err(map::reply(&fault, self.method_of(op)).into()),
            Event::QueueDeclared { queue, .. } => {
                // How many replies wait for a requester is not told to others. RabbitMQ answers 0 and 1 too.
                let (messages, consumers) = if queue.name.starts_with(REPLY_TO) {
                    (0, 1)
                } else {
                    (queue.messages, queue.consumers)
                };
                Queue::DeclareOk {
                    queue: &queue.name,
                    messages,
                    consumers,
                }
                .encode(channel, env.cx.out);
            }
            Event::QueueDeleted { messages, .. } => Queue::DeleteOk { messages }.encode(channel, env.cx.out),
            Event::QueuePurged { messages, .. } => Queue::PurgeOk { messages }.encode(channel, env.cx.out),
            Event::Consuming { consumer, .. } => {
                if let Some(consumer) = self.consumer(consumer) {
                    Basic::ConsumeOk { tag: &consumer.tag }.encode(channel, env.cx.out);
                }
            }
            Event::ConsumerGone { consumer, .. } => self.consumer_gone(env, consumer),
            Event::Got { delivery, remaining } => self.got(env, &delivery, remaining),
            Event::GetEmpty { .. } => Basic::GetEmpty { reserved: "" }.encode(channel, env.cx.out),
            Event::Echo { token, .. } => {
                if let Some(answer) = Deferred::ALL.into_iter().find(|answer| *answer as u64 == token) {
                    answer.encode(channel, env.cx.out);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn done(&mut self, env: &mut Env<'_, '_>, op: Op, consumer: u32) {
        let (channel, out) = (env.number, &mut *env.cx.out);
        match op {
            Op::OpenChannel => crate::frame::Channel::OpenOk { reserved: b"" }.encode(channel, out),
            Op::DeclareExchange => Exchange::DeclareOk {}.encode(channel, out),
            Op::DeleteExchange => Exchange::DeleteOk {}.encode(channel, out),
            Op::Bind => match self.binds.pop_front() {
                Some(Exchange::CLASS) => Exchange::BindOk {}.encode(channel, out),
                _ => Queue::BindOk {}.encode(channel, out),
            },
            Op::Unbind => match self.binds.pop_front() {
                Some(Exchange::CLASS) => Exchange::UnbindOk {}.encode(channel, out),
                _ => Queue::UnbindOk {}.encode(channel, out),
            },
            Op::Qos => Basic::QosOk {}.encode(channel, out),
            Op::Recover => Basic::RecoverOk {}.encode(channel, out),
            Op::Cancel => {
                if let Some(gone) = self.remove_consumer(consumer)
                    && gone.cancelling.is_some_and(|cancelling| cancelling.reply)
                {
                    Basic::CancelOk { tag: &gone.tag }.encode(channel, out);
                }
            }
            Op::Commit => Tx::CommitOk {}.encode(channel, out),
            // Answered by events of their own, or operations of other protocols or operators.
            Op::Publish
            | Op::Settle
            | Op::CloseChannel
            | Op::DeclareQueue
            | Op::DeleteQueue
            | Op::PurgeQueue
            | Op::Consume
            | Op::Get
            | Op::OpenSession
            | Op::Subscribe
            | Op::Unsubscribe
            | Op::SetPolicies => {}
        }
    }

    /// The queue of a consumer was deleted. Clients that announced `consumer_cancel_notify` are told.
    fn consumer_gone(&mut self, env: &mut Env<'_, '_>, token: u32) {
        // The client has cancelled meanwhile: `cancel-ok` is still to come and tells it.
        if self
            .consumer(token)
            .is_none_or(|consumer| consumer.cancelling.is_some())
        {
            return;
        }
        if let Some(consumer) = self.remove_consumer(token)
            && env.client.cancel_notify
        {
            Basic::Cancel {
                tag: &consumer.tag,
                nowait: true,
            }
            .encode(env.number, env.cx.out);
        }
    }

    /// Acks publishes up to `upto`, in as few methods as the nacks between them allow.
    fn confirm(&mut self, env: &mut Env<'_, '_>, upto: u64) {
        let (channel, out) = (env.number, &mut *env.cx.out);
        let passed = self.refused.partition_point(|number| *number <= upto);
        for refused in self.refused.drain(..passed) {
            put_ack(out, channel, self.confirmed, refused - 1);
            Basic::Nack {
                number: refused,
                multiple: false,
                requeue: false,
            }
            .encode(channel, out);
            self.confirmed = refused;
        }
        put_ack(out, channel, self.confirmed, upto);
        self.confirmed = self.confirmed.max(upto);
    }

    fn method_of(&mut self, op: Op) -> (u16, u16) {
        match (op, map::method(op)) {
            (Op::Settle, (class, method)) => (
                class,
                if self.settle_method == 0 {
                    method
                } else {
                    self.settle_method
                },
            ),
            (Op::Bind, _) if self.binds.front() == Some(&Exchange::CLASS) => (Exchange::CLASS, 30),
            (Op::Unbind, _) if self.binds.front() == Some(&Exchange::CLASS) => (Exchange::CLASS, 40),
            (_, method) => method,
        }
    }
}

/// Acks publishes above `after`, up to and including `upto`.
fn put_ack(out: &mut Vec<u8>, channel: u16, after: u64, upto: u64) {
    if upto > after {
        Basic::Ack {
            number: upto,
            multiple: upto - after > 1,
        }
        .encode(channel, out);
    }
}
