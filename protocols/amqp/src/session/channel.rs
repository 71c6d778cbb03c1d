//! One channel: turns its methods into commands. Content is in `publishing`; answers and deliveries are in `answering`
//! and `delivering`.

use super::content::Content;
use super::deferred::Deferred;
use super::env::Env;
use super::transaction::Transaction;
use crate::error::{Code, Error, Reply};
use crate::frame::{self, Access, Basic, Confirm, Exchange, Method, Queue, Tx, table};
use crate::map::REPLY_TO;
use gatepost_core::command::{
    Bind, BindTarget, ChannelMode, Command, Consume, ConsumerToken, DeclareExchange, DeclareQueue, DeleteExchange,
    DeleteQueue, Get, Outcome, PurgeQueue,
};
use gatepost_core::properties::{Name, Table};
use gatepost_core::session::Cx;
use std::collections::VecDeque;

/// A channel's state.
#[derive(Default)]
pub(super) struct Channel {
    pub(super) phase: Phase,
    pub(super) mode: Mode,
    /// The message being assembled, between `basic.publish` and its last body frame.
    pub(super) content: Option<Box<Content>>,
    /// In ascending order of their tokens, consumers that are being cancelled included.
    pub(super) consumers: Vec<Consumer>,
    next_consumer: ConsumerToken,
    /// Class (queue or exchange) of each bind and unbind that awaits its answer. The engine's answer does not contain
    /// it.
    pub(super) binds: VecDeque<u16>,
    /// Number of the last publish that was acked or nacked. Publishes are numbered from 1.
    pub(super) confirmed: u64,
    /// Numbers above `confirmed` that are to be nacked, in ascending order.
    pub(super) refused: Vec<u64>,
    /// The last method used to settle: an error closes the channel in its name.
    pub(super) settle_method: u16,
    /// Queue and consumer of direct reply-to.
    pub(super) replies: Option<(Name, ConsumerToken)>,
}

/// Where a channel is between open and close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// The client closed it; `close-ok` follows when the engine has answered.
    Closing,
    /// We closed it; everything before the client's `close-ok` is discarded.
    Discarding,
}

/// How the channel treats publishes.
#[derive(Debug, Default)]
pub(super) enum Mode {
    #[default]
    Plain,
    /// Publishes are numbered and confirmed.
    Confirm,
    /// Publishes and settles wait for commit.
    Transaction(Transaction),
}

/// A consumer as its client knows it.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) token: ConsumerToken,
    pub(super) tag: Name,
    pub(super) cancelling: Option<Cancelling>,
}

/// The client cancelled the consumer. Deliveries may still come until the engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cancelling {
    /// Whether the client expects `cancel-ok`.
    pub(super) reply: bool,
}

impl Channel {
    /// Octets of its unfinished messages and uncommitted transactions.
    fn unfinished_bytes(&self) -> usize {
        let content = self.content.as_ref().map_or(0, |content| content.unfinished_bytes());
        match &self.mode {
            Mode::Transaction(transaction) => content + transaction.bytes,
            _ => content,
        }
    }

    /// The client closes the channel. Earlier commands are still answered.
    pub(super) fn close(&mut self, cx: &mut Cx<'_>, number: u16, unfinished_bytes: &mut usize) {
        *unfinished_bytes -= self.unfinished_bytes();
        self.content = None;
        self.mode = Mode::Plain;
        self.phase = Phase::Closing;
        cx.commands.push(Command::CloseChannel {
            channel: number,
            reply: true,
        });
    }

    /// We closed the channel: everything but the close handshake is discarded.
    pub(super) fn discard(&mut self, unfinished_bytes: &mut usize) {
        *unfinished_bytes -= self.unfinished_bytes();
        *self = Channel {
            phase: Phase::Discarding,
            ..Channel::default()
        };
    }

    /// Handles any method but the first `channel.open` and `basic.publish`.
    pub(super) fn method(&mut self, env: &mut Env<'_, '_>, method: Method<'_>) -> Result<(), Error> {
        let ids = method.ids();
        match method {
            Method::Basic(method) => self.basic(env, method, ids),
            Method::Channel(method) => self.channel(env, method, ids),
            Method::Queue(method) => self.queue(env, method, ids),
            Method::Exchange(method) => self.exchange(env, method, ids),
            Method::Confirm(Confirm::Select { nowait }) => self.confirm_select(env, nowait, ids),
            Method::Tx(method) => self.tx(env, &method, ids),
            Method::Access(Access::Request { .. }) => {
                env.defer(Deferred::AccessRequestOk);
                Ok(())
            }
            Method::Connection(_) | Method::Confirm(_) | Method::Access(_) => Err(unimplemented_method(ids)),
        }
    }

    fn channel(&mut self, env: &mut Env<'_, '_>, method: frame::Channel<'_>, ids: (u16, u16)) -> Result<(), Error> {
        match method {
            frame::Channel::Open { .. } => Err(Error::new(Code::ChannelError, "second 'channel.open' seen", ids)),
            frame::Channel::Close { .. } => {
                self.close(env.cx, env.number, env.unfinished_bytes);
                Ok(())
            }
            // 1.5.2.3: would stop deliveries. RabbitMQ refuses it too, and hardly any client uses it.
            frame::Channel::Flow { active: false } => Err(Error::new(Code::NotImplemented, "active=false", ids)),
            frame::Channel::Flow { active: true } => {
                env.defer(Deferred::FlowOk);
                Ok(())
            }
            _ => Err(unimplemented_method(ids)),
        }
    }

    fn exchange(&mut self, env: &mut Env<'_, '_>, method: Exchange<'_>, ids: (u16, u16)) -> Result<(), Error> {
        let channel = env.number;
        let command = match method {
            Exchange::Declare {
                exchange,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                nowait,
                arguments,
                ..
            } => Command::DeclareExchange(Box::new(DeclareExchange {
                channel,
                name: name(exchange),
                kind: kind.into(),
                passive,
                durable,
                auto_delete,
                internal,
                arguments,
                reply: !nowait,
            })),
            Exchange::Delete {
                exchange,
                if_unused,
                nowait,
                ..
            } => Command::DeleteExchange(Box::new(DeleteExchange {
                channel,
                name: name(exchange),
                if_unused,
                reply: !nowait,
            })),
            Exchange::Bind {
                destination,
                source,
                key,
                nowait,
                arguments,
                ..
            } => {
                let target = BindTarget::Exchange(name(destination));
                Command::Bind(self.bind(channel, ids.0, source, target, key, arguments, !nowait))
            }
            Exchange::Unbind {
                destination,
                source,
                key,
                nowait,
                arguments,
                ..
            } => {
                let target = BindTarget::Exchange(name(destination));
                Command::Unbind(self.bind(channel, ids.0, source, target, key, arguments, !nowait))
            }
            _ => return Err(unimplemented_method(ids)),
        };
        env.cx.commands.push(command);
        Ok(())
    }

    fn queue(&mut self, env: &mut Env<'_, '_>, method: Queue<'_>, ids: (u16, u16)) -> Result<(), Error> {
        let channel = env.number;
        let command = match method {
            Queue::Declare {
                queue: REPLY_TO,
                nowait,
                ..
            } => {
                // The engine has no such queue. Clients declare it to see whether they may use direct reply-to.
                if !nowait {
                    env.defer(Deferred::ReplyToDeclared);
                }
                return Ok(());
            }
            Queue::Declare {
                queue,
                passive,
                durable,
                exclusive,
                auto_delete,
                nowait,
                arguments,
                ..
            } => {
                let declare = DeclareQueue {
                    channel,
                    name: name(queue),
                    passive,
                    durable,
                    exclusive,
                    auto_delete,
                    lenient: false,
                    arguments,
                    reply: !nowait,
                };
                let is_replies = queue.starts_with(REPLY_TO);
                Command::DeclareQueue(Box::new(if is_replies { asking(declare) } else { declare }))
            }
            Queue::Delete {
                queue,
                if_unused,
                if_empty,
                nowait,
                ..
            } => Command::DeleteQueue(Box::new(DeleteQueue {
                channel,
                name: name(queue),
                if_unused,
                if_empty,
                reply: !nowait,
            })),
            Queue::Purge { queue, nowait, .. } => Command::PurgeQueue(Box::new(PurgeQueue {
                channel,
                name: queue.into(),
                reply: !nowait,
            })),
            Queue::Bind {
                queue,
                exchange,
                key,
                nowait,
                arguments,
                ..
            } => {
                let target = BindTarget::Queue(name(queue));
                Command::Bind(self.bind(channel, ids.0, exchange, target, key, arguments, !nowait))
            }
            Queue::Unbind {
                queue,
                exchange,
                key,
                arguments,
                ..
            } => {
                let target = BindTarget::Queue(name(queue));
                Command::Unbind(self.bind(channel, ids.0, exchange, target, key, arguments, true))
            }
            _ => return Err(unimplemented_method(ids)),
        };
        env.cx.commands.push(command);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of four methods")]
    fn bind(
        &mut self,
        channel: u16,
        class: u16,
        source: &str,
        target: BindTarget,
        key: &str,
        arguments: Table,
        reply: bool,
    ) -> Box<Bind> {
        if reply {
            self.binds.push_back(class);
        }
        Box::new(Bind {
            channel,
            source: name(source),
            target,
            key: key.into(),
            arguments,
            reply,
        })
    }

    fn basic(&mut self, env: &mut Env<'_, '_>, method: Basic<'_>, ids: (u16, u16)) -> Result<(), Error> {
        let channel = env.number;
        match method {
            Basic::Ack { number, multiple } => self.settle(env, number, multiple, Outcome::Accept, ids),
            Basic::Nack {
                number,
                multiple,
                requeue,
            } => self.settle(env, number, multiple, verdict(requeue), ids),
            Basic::Reject { number, requeue } => self.settle(env, number, false, verdict(requeue), ids),
            Basic::Qos { size, count, global } => {
                if size != 0 {
                    return Err(Error::new(
                        Code::NotImplemented,
                        format!("prefetch_size!=0 ({size})"),
                        ids,
                    ));
                }
                env.cx.commands.push(Command::Qos {
                    channel,
                    count: count.into(),
                    global,
                });
                Ok(())
            }
            Basic::Consume {
                queue,
                tag,
                no_ack,
                exclusive,
                nowait,
                arguments,
                ..
            } => {
                let priority = consumer_priority(&arguments, queue, env, ids)?;
                let (consumer, tag) = self.add_consumer(env, tag, ids)?;
                let queue = match queue {
                    REPLY_TO => self.reply_queue(env, consumer, no_ack, ids)?,
                    _ => queue.into(),
                };
                env.cx.commands.push(Command::Consume(Box::new(Consume {
                    channel,
                    consumer,
                    queue,
                    tag,
                    no_ack,
                    exclusive,
                    priority,
                    prefetch: None,
                    arguments,
                    reply: !nowait,
                })));
                Ok(())
            }
            Basic::Cancel { tag, nowait } => self.cancel(env, tag, nowait, ids),
            // The answer to a `basic.cancel` of ours, which wanted no answer.
            Basic::CancelOk { .. } => Ok(()),
            Basic::Get { queue, no_ack, .. } => {
                env.cx.commands.push(Command::Get(Box::new(Get {
                    channel,
                    queue: queue.into(),
                    no_ack,
                })));
                Ok(())
            }
            Basic::Recover { requeue: false } | Basic::RecoverAsync { requeue: false } => {
                Err(Error::new(Code::NotImplemented, "requeue=false", ids))
            }
            Basic::Recover { .. } => {
                env.cx.commands.push(Command::Recover { channel, reply: true });
                Ok(())
            }
            Basic::RecoverAsync { .. } => {
                env.cx.commands.push(Command::Recover { channel, reply: false });
                Ok(())
            }
            _ => Err(unimplemented_method(ids)),
        }
    }

    fn cancel(&mut self, env: &mut Env<'_, '_>, tag: &str, nowait: bool, ids: (u16, u16)) -> Result<(), Error> {
        let cancelling = Some(Cancelling { reply: !nowait });
        let known = self
            .consumers
            .iter_mut()
            .find(|c| *c.tag == *tag && c.cancelling.is_none());
        let consumer = match known {
            Some(consumer) => {
                consumer.cancelling = cancelling;
                consumer.token
            }
            // Cancelling an unknown consumer succeeds. The engine answers for unknown tokens too, so the order of
            // answers holds.
            None => self.push_consumer(env, tag.into(), cancelling, ids)?,
        };
        self.replies.take_if(|(_, replies)| *replies == consumer);
        env.cx.commands.push(Command::Cancel {
            channel: env.number,
            consumer,
            reply: true,
        });
        Ok(())
    }

    fn settle(
        &mut self,
        env: &mut Env<'_, '_>,
        number: u64,
        multiple: bool,
        outcome: Outcome,
        ids: (u16, u16),
    ) -> Result<(), Error> {
        self.settle_method = ids.1;
        let channel = env.number;
        if let Mode::Transaction(transaction) = &mut self.mode {
            env.cx.commands.push(Command::HoldSettle {
                channel,
                number,
                multiple,
                outcome,
            });
            return transaction.hold_settle(env, ids);
        }
        env.cx.commands.push(Command::Settle {
            channel,
            number,
            multiple,
            outcome,
        });
        Ok(())
    }

    fn add_consumer(
        &mut self,
        env: &mut Env<'_, '_>,
        tag: &str,
        ids: (u16, u16),
    ) -> Result<(ConsumerToken, Name), Error> {
        let tag = if tag.is_empty() {
            env.made_up("amq.ctag-")
        } else {
            tag.into()
        };
        if self.consumers.iter().any(|c| c.tag == tag && c.cancelling.is_none()) {
            return Err(Error::new(
                Code::NotAllowed,
                format!("attempt to reuse consumer tag '{tag}'"),
                ids,
            ));
        }
        let token = self.push_consumer(env, tag.clone(), None, ids)?;
        Ok((token, tag))
    }

    fn push_consumer(
        &mut self,
        env: &Env<'_, '_>,
        tag: Name,
        cancelling: Option<Cancelling>,
        ids: (u16, u16),
    ) -> Result<ConsumerToken, Error> {
        let max = env.settings.consumers_max;
        if self.consumers.len() >= max {
            return Err(Error::new(
                Code::NotAllowed,
                format!("reached maximum ({max}) of consumers per channel"),
                ids,
            ));
        }
        // 0 stands for `basic.get`. Tokens are never reused: a channel has 2^32 - 1 of them.
        self.next_consumer = self.next_consumer.checked_add(1).ok_or_else(|| {
            Error::Connection(Reply::new(
                Code::ResourceError,
                "consumers of this channel used up",
                ids,
            ))
        })?;
        self.consumers.push(Consumer {
            token: self.next_consumer,
            tag,
            cancelling,
        });
        Ok(self.next_consumer)
    }

    /// Direct reply-to: a queue with a generated name that is deleted with its consumer. It is declared on channel 0,
    /// so that it does not become this channel's last declared queue.
    fn reply_queue(
        &mut self,
        env: &mut Env<'_, '_>,
        consumer: ConsumerToken,
        no_ack: bool,
        ids: (u16, u16),
    ) -> Result<Name, Error> {
        if !no_ack {
            return Err(Error::new(
                Code::PreconditionFailed,
                "reply consumer cannot acknowledge",
                ids,
            ));
        }
        if self.replies.is_some() {
            return Err(Error::new(Code::PreconditionFailed, "reply consumer already set", ids));
        }
        let queue = env.made_up("amq.rabbitmq.reply-to.");
        env.cx.commands.push(Command::DeclareQueue(Box::new(DeclareQueue {
            channel: 0,
            name: queue.clone(),
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: true,
            // The name is reserved for the server, which declares it here.
            lenient: true,
            arguments: Table::default(),
            reply: false,
        })));
        self.replies = Some((queue.clone(), consumer));
        Ok(queue)
    }

    fn confirm_select(&mut self, env: &mut Env<'_, '_>, nowait: bool, ids: (u16, u16)) -> Result<(), Error> {
        if let Mode::Transaction(_) = self.mode {
            return Err(Error::new(
                Code::PreconditionFailed,
                "cannot switch from tx to confirm mode",
                ids,
            ));
        }
        self.mode = Mode::Confirm;
        env.set_mode(ChannelMode::Confirm);
        if !nowait {
            env.defer(Deferred::ConfirmSelectOk);
        }
        Ok(())
    }

    fn tx(&mut self, env: &mut Env<'_, '_>, method: &Tx, ids: (u16, u16)) -> Result<(), Error> {
        match (method, &mut self.mode) {
            (Tx::Select {}, Mode::Confirm) => Err(Error::new(
                Code::PreconditionFailed,
                "cannot switch from confirm to tx mode",
                ids,
            )),
            (Tx::Select {}, mode) => {
                if let Mode::Plain = mode {
                    *mode = Mode::Transaction(Transaction::default());
                    env.set_mode(ChannelMode::Transactional);
                }
                env.defer(Deferred::TxSelectOk);
                Ok(())
            }
            (Tx::Commit {}, Mode::Transaction(transaction)) => {
                match transaction.take(env) {
                    (commands, false) if commands.is_empty() => env.defer(Deferred::TxCommitOk),
                    (commands, _) => {
                        env.cx
                            .commands
                            .push(Command::Transaction(Box::new(gatepost_core::command::Transaction {
                                channel: env.number,
                                commands,
                            })))
                    }
                }
                Ok(())
            }
            (Tx::Rollback {}, Mode::Transaction(transaction)) => {
                let (_, holds_settles) = transaction.take(env);
                if holds_settles {
                    env.cx.commands.push(Command::ForgetHeld { channel: env.number });
                }
                env.defer(Deferred::TxRollbackOk);
                Ok(())
            }
            (Tx::Commit {} | Tx::Rollback {}, _) => Err(Error::new(
                Code::PreconditionFailed,
                "channel is not transactional",
                ids,
            )),
            _ => Err(unimplemented_method(ids)),
        }
    }
}

/// RabbitMQ's answer to methods that only a server may send.
fn unimplemented_method(ids: (u16, u16)) -> Error {
    Error::new(Code::CommandInvalid, "unimplemented method", ids)
}

/// Declares the direct reply-to queue of another connection passively: a service checks whether the requester still
/// exists. The client's flags are ignored, as in RabbitMQ: no queue is made.
fn asking(declare: DeclareQueue) -> DeclareQueue {
    DeclareQueue {
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        lenient: true,
        arguments: Table::default(),
        ..declare
    }
}

fn verdict(requeue: bool) -> Outcome {
    if requeue { Outcome::Requeue } else { Outcome::Reject }
}

/// Line ends are removed from names, as in RabbitMQ.
fn name(text: &str) -> Name {
    if text.contains(['\r', '\n']) {
        text.replace(['\r', '\n'], "").into()
    } else {
        text.into()
    }
}

fn consumer_priority(arguments: &Table, queue: &str, env: &Env<'_, '_>, ids: (u16, u16)) -> Result<i32, Error> {
    let Some(value) = arguments.lookup("x-priority") else {
        return Ok(0);
    };
    let Some(priority) = value.as_int() else {
        let (vhost, kind) = (&env.client.vhost, table::type_name(table::letter(value)));
        let detail = format!(
            "invalid arg 'x-priority' for queue '{queue}' in vhost '{vhost}': \"expected integer, got {kind}\""
        );
        return Err(Error::new(Code::PreconditionFailed, detail, ids));
    };
    let clamped = priority.clamp(i32::MIN.into(), i32::MAX.into());
    Ok(i32::try_from(clamped).unwrap_or(0))
}

impl Channel {
    /// The consumer of `token`.
    pub(super) fn consumer(&self, token: ConsumerToken) -> Option<&Consumer> {
        let at = self.consumers.binary_search_by_key(&token, |c| c.token).ok()?;
        self.consumers.get(at)
    }

    /// Forgets the consumer of `token`.
    pub(super) fn remove_consumer(&mut self, token: ConsumerToken) -> Option<Consumer> {
        let at = self.consumers.binary_search_by_key(&token, |c| c.token).ok()?;
        self.replies.take_if(|(_, replies)| *replies == token);
        Some(self.consumers.remove(at))
    }
}
